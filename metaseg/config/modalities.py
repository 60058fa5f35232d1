"""The one name of a modality inside metaseg, whatever files, tables and users call it."""

from __future__ import annotations

import re

_SAME_MODALITY = {
    "flair": "flair fla t2f t2flair t2wflair flairt2",
    "t1": "t1 t1w t1n t1native t1pre t1wpre t1precontrast t1mprage t1wmprage",
    "t1ce": "t1ce t1c t1gd t1wgd t1wce t1cw t1post t1wpost t1contrast cet1 cet1w gdt1 gdt1w t1cegd t1gad t1gadolinium "
    "t1wc t1wgad t1km t1wks t1postgd t1postcontrast t1wpostcontrast postcontrast ce",
    "t2": "t2 t2w",
}
_CANONICAL = {alias: name for name, aliases in _SAME_MODALITY.items() for alias in aliases.split()}


def canonical_modality(name: str) -> str:
    """The name used inside metaseg for a modality named otherwise, such as ``"T1Gd"`` or ``"t2w"``.

    Unknown names come back in lower case.
    """
    return _CANONICAL.get(re.sub(r"[^a-z0-9]", "", name.lower()), name.strip().lower())
