"""Adaptation methods, one module each; importing this package enters them into the registry."""

from metaseg.adapt.methods import fomaml as fomaml
from metaseg.adapt.methods import maml as maml
from metaseg.adapt.methods import naive as naive
from metaseg.adapt.methods.registry import METHODS, MethodInfo, find_method, method_names, register_method

__all__ = ["METHODS", "MethodInfo", "find_method", "method_names", "register_method"]
