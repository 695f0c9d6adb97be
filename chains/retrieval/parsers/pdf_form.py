"""What people filled in or wrote on a page of a PDF: form fields in their places, and comments."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import pypdfium2.raw as pdfium

from chains.retrieval.parsers.pdf_page import PageBox, PageContent, Segment, page_box

_HIDDEN = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
_MAX_ANNOTATIONS = 5_000
_MAX_CHARS = 20_000
_COMMENTS = frozenset(
    {
        pdfium.FPDF_ANNOT_TEXT,
        pdfium.FPDF_ANNOT_HIGHLIGHT,
        pdfium.FPDF_ANNOT_UNDERLINE,
        pdfium.FPDF_ANNOT_SQUIGGLY,
        pdfium.FPDF_ANNOT_STRIKEOUT,
        pdfium.FPDF_ANNOT_CARET,
        pdfium.FPDF_ANNOT_INK,
        pdfium.FPDF_ANNOT_STAMP,
        pdfium.FPDF_ANNOT_SQUARE,
        pdfium.FPDF_ANNOT_CIRCLE,
        pdfium.FPDF_ANNOT_LINE,
        pdfium.FPDF_ANNOT_POLYGON,
    }
)
_BUTTONS = frozenset({pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON})
_PASSWORD = 1 << 13


def add_annotations(page: Any, document: Any, content: PageContent) -> None:
    """Add the fields and comments of a page of pypdfium2 to its content.

    A field's value stands where it is on the page, after its printed label; a field without one has its name
    before it. Comments are marked as such and name their author.
    """
    form = document.formenv.raw if document.formenv else None
    for at in range(min(pdfium.FPDFPage_GetAnnotCount(page.raw), _MAX_ANNOTATIONS)):
        annotation = pdfium.FPDFPage_GetAnnot(page.raw, at)
        if not annotation:
            continue
        try:
            if not pdfium.FPDFAnnot_GetFlags(annotation) & _HIDDEN:
                _add(annotation, form, page, content)
        finally:
            pdfium.FPDFPage_CloseAnnot(annotation)


def _add(annotation: Any, form: Any, page: Any, content: PageContent) -> None:
    kind = pdfium.FPDFAnnot_GetSubtype(annotation)
    if kind == pdfium.FPDF_ANNOT_WIDGET and form is not None:
        _add_field(annotation, form, page, content)
    elif kind == pdfium.FPDF_ANNOT_FREETEXT:
        box = _box(annotation, page)
        for offset, line in enumerate(_entry(annotation, "Contents").splitlines()):
            if line.strip() and box is not None:
                top = box.top + 12.0 * offset
                content.segments.append(
                    Segment(" ".join(line.split()), PageBox(box.left, top, box.right, top + 12.0), 10.0)
                )
    elif kind in _COMMENTS:
        text = " ".join(_entry(annotation, "Contents").split())
        if text:
            author = " ".join(_entry(annotation, "T").split())
            content.comments.append(f"Comment by {author}: {text}" if author else f"Comment: {text}")


def _add_field(annotation: Any, form: Any, page: Any, content: PageContent) -> None:
    kind = pdfium.FPDFAnnot_GetFormFieldType(form, annotation)
    box = _box(annotation, page)
    if box is None or kind in {pdfium.FPDF_FORMFIELD_PUSHBUTTON, pdfium.FPDF_FORMFIELD_SIGNATURE}:
        return
    name = _field(pdfium.FPDFAnnot_GetFormFieldAlternateName, form, annotation)
    name = name or _field(pdfium.FPDFAnnot_GetFormFieldName, form, annotation)
    if kind in _BUTTONS:
        mark = "[x]" if pdfium.FPDFAnnot_IsChecked(form, annotation) else "[ ]"
        right = _label_right(box, content)
        label = None if right else _label_left(box, content)
        if label is not None:
            _attach(label, _segment(mark, box, name))
            return
        if not right:
            export = _field(pdfium.FPDFAnnot_GetFormFieldExportValue, form, annotation)
            value = f" {export}" if export and export.lower() not in {"yes", "on", "1", "off"} else ""
            mark = f"{mark} {_readable(name)}{value}"
        content.segments.append(_segment(mark, box, name))
        return
    if (
        pdfium.FPDFAnnot_GetFormFieldFlags(form, annotation) & _PASSWORD
        and kind == pdfium.FPDF_FORMFIELD_TEXTFIELD
    ):
        return
    value = " ".join(_field(pdfium.FPDFAnnot_GetFormFieldValue, form, annotation).split())
    if value and not _is_printed(value, box, content):
        label = _label_left(box, content)
        text = value if label is not None else f"{_readable(name)}: {value}" if name else value
        segment = _segment(text, box, name)
        if label is not None:
            # The value stands on the line of its label, however tall its field is.
            middle = (label.box.top + label.box.bottom) / 2
            half = (label.box.bottom - label.box.top) / 2
            left = max(box.left, label.box.right + 0.1)
            segment.box = PageBox(left, middle - half, max(box.right, left + 1), middle + half)
            segment.size = label.size
            _attach(label, segment)
            return
        content.segments.append(segment)


def _attach(label: Segment, value: Segment) -> None:
    """Put a value behind its label, as one piece of text."""
    mark = "" if label.text.rstrip().endswith((":", "?")) else ":"
    label.text = f"{label.text.rstrip()}{mark} {value.text}"
    label.words = []
    label.box = PageBox(label.box.left, label.box.top, value.box.right, label.box.bottom)


def _segment(text: str, box: PageBox, name: str) -> Segment:
    middle = (box.top + box.bottom) / 2
    half = min((box.bottom - box.top) / 2, 6.0)
    right = min(box.right, box.left + 6.0 * len(text))
    return Segment(text, PageBox(box.left, middle - half, right, middle + half), 10.0, field_name=name)


def _readable(name: str) -> str:
    """Return a field's name in words: the last part of its path, without counters."""
    last = re.sub(r"\[\d+\]", "", name).rpartition(".")[2]
    return " ".join(re.sub(r"[_\s]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", last)).split()) or name


def _label_left(box: PageBox, content: PageContent) -> Segment | None:
    """Return the printed text right before a field on its line, or right above it."""
    beside = [
        one
        for one in content.segments
        if not one.field_name
        and one.box.right <= box.left + 6
        and min(one.box.bottom, box.bottom) - max(one.box.top, box.top)
        > 0.3 * min(one.size, box.bottom - box.top)
        and box.left - one.box.right < 250
    ]
    if beside:
        return max(beside, key=lambda one: one.box.right)
    above = [
        one
        for one in content.segments
        if not one.field_name
        and -2 <= box.top - one.box.bottom < 1.2 * one.size
        and abs(one.box.left - box.left) < 12
    ]
    return max(above, key=lambda one: one.box.bottom, default=None)


def _label_right(box: PageBox, content: PageContent) -> bool:
    return any(
        0 <= one.box.left - box.right + 3 < 40
        and min(one.box.bottom, box.bottom) - max(one.box.top, box.top) > 0.3 * one.size
        for one in content.segments
        if not one.field_name
    )


def _is_printed(value: str, box: PageBox, content: PageContent) -> bool:
    """Whether a value stands on the page already, as in a form that was flattened in part."""
    flat = "".join(value.split())
    return any(
        box.holds((one.box.left + one.box.right) / 2, (one.box.top + one.box.bottom) / 2)
        and flat.startswith("".join(one.text.split())[:40])
        for one in content.segments
        if not one.field_name
    )


def _box(annotation: Any, page: Any) -> PageBox | None:
    rectangle = pdfium.FS_RECTF()
    if not pdfium.FPDFAnnot_GetRect(annotation, rectangle):
        return None
    return page_box(page, rectangle.left, rectangle.bottom, rectangle.right, rectangle.top)


def _entry(annotation: Any, key: str) -> str:
    size = pdfium.FPDFAnnot_GetStringValue(annotation, key.encode(), None, 0)
    if not 2 < size < 2 * _MAX_CHARS:
        return ""
    buffer = (ctypes.c_ushort * (size // 2 + 1))()
    pdfium.FPDFAnnot_GetStringValue(annotation, key.encode(), buffer, size)
    return bytes(buffer)[: size - 2].decode("utf-16-le", "replace")


def _field(function: Any, form: Any, annotation: Any) -> str:
    size = function(form, annotation, None, 0)
    if not 2 < size < 2 * _MAX_CHARS:
        return ""
    buffer = (ctypes.c_ushort * (size // 2 + 1))()
    function(form, annotation, buffer, size)
    return bytes(buffer)[: size - 2].decode("utf-16-le", "replace")
