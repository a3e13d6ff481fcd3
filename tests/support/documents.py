"""Small files of each format, and hostile ones, made of their bytes."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
A = "http://schemas.openxmlformats.org/drawingml/2006/main"
P = "http://schemas.openxmlformats.org/presentationml/2006/main"
S = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
RELS = "http://schemas.openxmlformats.org/package/2006/relationships"
TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
CORE = "http://schemas.openxmlformats.org/package/2006/metadata/core-properties"
OFFICE = "application/vnd.openxmlformats-officedocument."


def archive(entries: Mapping[str, str | bytes]) -> bytes:
    """Return a zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zip_:
        for name, content in entries.items():
            zip_.writestr(name, content)
    return file.getvalue()


def claiming(raw: bytes, name: str, size: int) -> bytes:
    """Return an archive whose directory claims another unpacked size for an entry."""
    place = raw.rindex(name.encode()) - 46
    assert raw[place : place + 4] == b"PK\x01\x02"
    return raw[: place + 24] + struct.pack("<I", size) + raw[place + 28 :]


def _office(main: str, type_: str, entries: Mapping[str, str | bytes], title: str = "") -> bytes:
    core = (
        f'<cp:coreProperties xmlns:cp="{CORE}" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<dc:title>{escape(title)}</dc:title></cp:coreProperties>"
    )
    overrides = "".join(
        f'<Override PartName="/{name}" ContentType="{kind}"/>'
        for name, kind in {main: type_, **_types(entries)}.items()
    )
    return archive(
        {
            "[Content_Types].xml": (
                f'<Types xmlns="{TYPES}"><Default Extension="xml" ContentType="application/xml"/>'
                '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
                f"{overrides}</Types>"
            ),
            "_rels/.rels": _relations({"rId1": ("officeDocument", main)}),
            "docProps/core.xml": core,
            **entries,
        }
    )


def _types(entries: Mapping[str, str | bytes]) -> dict[str, str]:
    kinds = {
        "xl/worksheets/": "spreadsheetml.worksheet+xml",
        "ppt/slides/s": "presentationml.slide+xml",
        "ppt/slideLayouts/s": "presentationml.slideLayout+xml",
        "ppt/slideMasters/s": "presentationml.slideMaster+xml",
    }
    return {
        name: OFFICE + kind for name in entries for start, kind in kinds.items() if name.startswith(start)
    }


def _relations(targets: Mapping[str, tuple[str, str]]) -> str:
    inner = "".join(
        f'<Relationship Id="{id_}" Type="{R}/{kind}" Target="{target}"/>'
        for id_, (kind, target) in targets.items()
    )
    return f'<Relationships xmlns="{RELS}">{inner}</Relationships>'


def docx(body: str, title: str = "") -> bytes:
    """Return a Word document; `body` is WordprocessingML, as `paragraph` and `word_table` make it."""
    document = f'<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="{id_}"><w:name w:val="{name}"/></w:style>'
        for id_, name in (("Title", "Title"), *((f"H{level}", f"heading {level}") for level in range(1, 7)))
    )
    return _office(
        "word/document.xml",
        OFFICE + "wordprocessingml.document.main+xml",
        {
            "word/document.xml": document,
            "word/styles.xml": f'<w:styles xmlns:w="{W}">{styles}</w:styles>',
            "word/_rels/document.xml.rels": _relations({"rId1": ("styles", "styles.xml")}),
        },
        title,
    )


def paragraph(text: str, style: str = "", inside: str = "") -> str:
    """Return a paragraph; `inside` is an element around its text, such as `w:ins` for a tracked change."""
    tag = "w:delText" if inside == "w:del" else "w:t"
    run = f"<w:r><{tag}>{escape(text)}</{tag}></w:r>"
    if inside:
        run = f'<{inside} w:id="1" w:author="a">{run}</{inside}>'
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}{run}</w:p>"


def word_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Word."""
    cells = ["".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) for row in rows]
    inner = "".join(f"<w:tr>{row}</w:tr>" for row in cells)
    return f"<w:tbl>{inner}</w:tbl>"


def xlsx(sheets: Mapping[str, Sequence[Sequence[object]]], *, extra: str = "") -> bytes:
    """Return a workbook; `extra` is put at the end of the data of its first sheet, as it is."""
    names = list(sheets)
    entries: dict[str, str | bytes] = {
        "xl/workbook.xml": (
            f'<workbook xmlns="{S}" xmlns:r="{R}"><sheets>'
            + "".join(
                f'<sheet name="{escape(name)}" sheetId="{number}" r:id="rId{number}"/>'
                for number, name in enumerate(names, 1)
            )
            + "</sheets></workbook>"
        ),
        "xl/_rels/workbook.xml.rels": _relations(
            {
                f"rId{number}": ("worksheet", f"worksheets/sheet{number}.xml")
                for number in range(1, len(names) + 1)
            }
        ),
    }
    for number, name in enumerate(names, 1):
        rows = "".join(
            f'<row r="{row}">' + "".join(map(_cell, values)) + "</row>"
            for row, values in enumerate(sheets[name], 1)
        )
        entries[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet xmlns="{S}"><sheetData>'
            + rows
            + (extra if number == 1 else "")
            + "</sheetData></worksheet>"
        )
    return _office("xl/workbook.xml", OFFICE + "spreadsheetml.sheet.main+xml", entries)


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        return f"<c><v>{value}</v></c>"
    return f'<c t="inlineStr"><is><t>{escape(str(value))}</t></is></c>'


def pptx(slides: Sequence[tuple[str, Sequence[str]]], title: str = "") -> bytes:
    """Return a presentation; each slide has a title and paragraphs."""
    numbers = range(1, len(slides) + 1)
    tree = '<p:nvGrpSpPr><p:cNvPr id="1" name=""/><p:cNvGrpSpPr/><p:nvPr/></p:nvGrpSpPr><p:grpSpPr/>'
    listed = "".join(f'<p:sldId id="{255 + n}" r:id="rId{n}"/>' for n in numbers)
    names = f'xmlns:p="{P}" xmlns:a="{A}" xmlns:r="{R}"'
    entries: dict[str, str | bytes] = {
        "ppt/presentation.xml": (
            f'<p:presentation {names}><p:sldMasterIdLst><p:sldMasterId id="2147483648" r:id="rIdM"/>'
            f"</p:sldMasterIdLst><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>"
        ),
        "ppt/_rels/presentation.xml.rels": _relations(
            {
                "rIdM": ("slideMaster", "slideMasters/s1.xml"),
                **{f"rId{n}": ("slide", f"slides/s{n}.xml") for n in numbers},
            }
        ),
        "ppt/slideMasters/s1.xml": (
            f"<p:sldMaster {names}><p:cSld><p:spTree>{tree}</p:spTree></p:cSld><p:sldLayoutIdLst>"
            '<p:sldLayoutId id="2147483649" r:id="rId1"/></p:sldLayoutIdLst></p:sldMaster>'
        ),
        "ppt/slideMasters/_rels/s1.xml.rels": _relations({"rId1": ("slideLayout", "../slideLayouts/s1.xml")}),
        "ppt/slideLayouts/s1.xml": f"<p:sldLayout {names}><p:cSld><p:spTree>{tree}</p:spTree></p:cSld></p:sldLayout>",
        "ppt/slideLayouts/_rels/s1.xml.rels": _relations({"rId1": ("slideMaster", "../slideMasters/s1.xml")}),
    }
    for number, (heading, lines) in enumerate(slides, 1):
        shapes = _shape(2, '<p:ph type="title"/>', [heading]) if heading else ""
        shapes += _shape(3, '<p:ph idx="1"/>', lines) if lines else ""
        entries[f"ppt/slides/s{number}.xml"] = (
            f"<p:sld {names}><p:cSld><p:spTree>{tree}{shapes}</p:spTree></p:cSld></p:sld>"
        )
        entries[f"ppt/slides/_rels/s{number}.xml.rels"] = _relations(
            {"rId1": ("slideLayout", "../slideLayouts/s1.xml")}
        )
    return _office("ppt/presentation.xml", OFFICE + "presentationml.presentation.main+xml", entries, title)


def _shape(id_: int, place: str, lines: Sequence[str]) -> str:
    text = "".join(f"<a:p><a:r><a:t>{escape(line)}</a:t></a:r></a:p>" for line in lines)
    return (
        f'<p:sp><p:nvSpPr><p:cNvPr id="{id_}" name="s{id_}"/><p:cNvSpPr/><p:nvPr>{place}</p:nvPr></p:nvSpPr>'
        f"<p:spPr/><p:txBody><a:bodyPr/>{text}</p:txBody></p:sp>"
    )


def pdf(
    pages: Sequence[str], *, title: str = "", bookmarks: Mapping[str, int] | None = None, extra: str = ""
) -> bytes:
    """Return a PDF with a line of text for each line of a page; an empty page has a picture.

    `bookmarks` are titles with the number of their page, from 1; `extra` is put into the trailer.
    """
    bookmarks = bookmarks or {}
    first = 5
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(pages)))
    marks = first + 2 * len(pages)
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {f'/Outlines {marks} 0 R' if bookmarks else ''} >>".encode(),
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Title ({title}) >>".encode(),
    ]
    for number, page in enumerate(pages):
        shown = "".join(f"({line}) Tj 0 -14 Td " for line in page.splitlines())
        content = f"BT /F1 12 Tf 72 720 Td {shown}ET" if page else "0 0 200 200 re f"
        objects += [
            (
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {first + 2 * number + 1} 0 R"
                " /Resources << /Font << /F1 3 0 R >> >> >>"
            ).encode(),
            stream(content.encode()),
        ]
    if bookmarks:
        last = marks + len(bookmarks)
        objects.append(f"<< /Type /Outlines /First {marks + 1} 0 R /Last {last} 0 R >>".encode())
        for number, (name, page_) in enumerate(bookmarks.items(), marks + 1):
            follows = f"/Next {number + 1} 0 R" if number < last else ""
            target = first + 2 * (page_ - 1)
            objects.append(
                f"<< /Title ({name}) /Parent {marks} 0 R /Dest [{target} 0 R /Fit] {follows} >>".encode()
            )
    return pdf_of(objects, extra=f"/Info 4 0 R {extra}")


def stream(content: bytes, filters: str = "") -> bytes:
    """Return a stream object."""
    entry = f"/Filter {filters}" if filters else ""
    return f"<< /Length {len(content)} {entry} >>\nstream\n".encode() + content + b"\nendstream"


def deflated(content: bytes, times: int = 1) -> bytes:
    """Return a stream object whose content is compressed several times."""
    for _ in range(times):
        content = zlib.compress(content, 9)
    return stream(content, f"[{' /FlateDecode' * times}]")


def pdf_of(objects: Sequence[bytes], extra: str = "") -> bytes:
    """Return a PDF of objects, whose first is the catalog."""
    body = bytearray(b"%PDF-1.7\n")
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    table = len(body)
    body += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    body += b"".join(f"{place:010d} 00000 n \n".encode() for place in places)
    body += (
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {extra} >>\nstartxref\n{table}\n%%EOF\n".encode()
    )
    return bytes(body)


def encrypted_pdf() -> bytes:
    """Return a PDF that asks for a password."""
    key = f"/Filter /Standard /V 1 /R 2 /Length 40 /P -4 /O <{'ab' * 32}> /U <{'cd' * 32}>"
    return pdf(["secret"], extra=f"/Encrypt << {key} >> /ID [<00> <00>]")


def encrypted_office() -> bytes:
    """Return the beginning of the container that encrypted Office files are in."""
    return (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "EncryptedPackage".encode("utf-16-le") + bytes(512)
    )
