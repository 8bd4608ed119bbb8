"""The record of the settings that a result was made with, as it stands in the result's file."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.sax.saxutils import escape

from . import png
from .metadata import Metadata

KEYWORD = b"diffusers-sr"
"""The keyword of the record among the texts of a PNG."""
NAMESPACE = "https://github.com/diffusers-sr/diffusers-sr/ns/1.0/"
"""The namespace of the record, `settings`, in XMP data."""

_PACKET = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
_END = re.compile(rb"</(\w+):RDF\s*>")
_ABOUT = re.compile(rb"""\b\w+:about\s*=\s*["']([^"'<&]*)["']""")
_OWN = re.compile(
    rb'<\w+:Description \w+:about="[^"]*" xmlns:diffusersSR="%s"><diffusersSR:settings>[^<]*</diffusersSR:settings>'
    rb"</\w+:Description>" % re.escape(NAMESPACE.encode())
)


def without_record(metadata: Metadata) -> Metadata:
    """Leave out the record of a photograph that is itself a result."""
    texts = [(kind, content) for kind, content in metadata.texts if png.keyword(content) != KEYWORD]
    return replace(metadata, texts=texts, xmp=None if metadata.xmp is None else _OWN.sub(b"", metadata.xmp))


def with_record(xmp: bytes | None, record: str) -> bytes | None:
    """Add a record to XMP data, or make XMP data of it; None if there is no place for it in the data.

    Args:
        xmp: the data.
        record: an ASCII text.
    """
    xmp = xmp or _PACKET
    ends = list(_END.finditer(xmp))
    if not ends:
        return None
    about = _ABOUT.search(xmp)
    description = b'<%(rdf)s:Description %(rdf)s:about="%(about)s" xmlns:diffusersSR="%(namespace)s">' % {
        b"rdf": ends[-1][1],
        b"about": b"" if about is None else about[1],
        b"namespace": NAMESPACE.encode(),
    }
    settings = b"<diffusersSR:settings>%s</diffusersSR:settings>" % escape(record).encode("ascii")
    at = ends[-1].start()
    return xmp[:at] + description + settings + b"</%s:Description>" % ends[-1][1] + xmp[at:]
