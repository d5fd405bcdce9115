"""Teachers: trained here or imported, stored with all that says what they are for, checked before use."""

from condense.teachers.class_statistics import ClassStatistics
from condense.teachers.dynamics import Dynamics
from condense.teachers.experts import ExpertRecipe, Experts
from condense.teachers.features import Features
from condense.teachers.importing import import_teacher
from condense.teachers.recipe import TeacherRecipe, train_teacher
from condense.teachers.teacher import Teacher, TeacherInfo, check_teacher, load_teacher, save_teacher

__all__ = [
    "ClassStatistics",
    "Dynamics",
    "ExpertRecipe",
    "Experts",
    "Features",
    "Teacher",
    "TeacherInfo",
    "TeacherRecipe",
    "check_teacher",
    "import_teacher",
    "load_teacher",
    "save_teacher",
    "train_teacher",
]
