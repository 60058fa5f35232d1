"""Adaptation methods, one module each; importing this package enters them all into the registry."""

from importlib import import_module
from pkgutil import iter_modules

from metaseg.adapt.methods.registry import METHODS, MethodInfo, find_method, method_names, register_method

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "MethodInfo", "find_method", "method_names", "register_method"]
