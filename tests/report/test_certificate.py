import json
import math
from dataclasses import replace

import pytest

from jitlab.errors import UserError
from jitlab.report.certificate import Searched, SearchedCell, read_certificate, write_certificate
from tests.report import certificates

CERTIFICATE = replace(
    certificates.CERTIFICATE,
    search=Searched(100, 1000, False, (SearchedCell("raw", 1.0, {"fd_pixels": 0.1}),)),
    protocol={**certificates.PROTOCOL, "steps": 20},
    warnings=("few images",),
)


@pytest.mark.parametrize("certificate", [CERTIFICATE, replace(CERTIFICATE, search=None)])
def test_a_certificate_is_read_as_it_was_written_and_written_as_it_was_read(tmp_path, certificate):
    path, again = tmp_path / "evaluation.json", tmp_path / "again.json"
    write_certificate(path, certificate)
    assert read_certificate(path) == certificate
    write_certificate(again, read_certificate(path))
    assert again.read_bytes() == path.read_bytes()


def test_the_protocol_alone_decides_its_hash():
    other = replace(CERTIFICATE, name="v", weights="raw", values={"fd_pixels": (1.0,)})
    assert other.protocol_hash == CERTIFICATE.protocol_hash
    changed = replace(CERTIFICATE, protocol={**CERTIFICATE.protocol, "steps": 50})
    assert changed.protocol_hash != CERTIFICATE.protocol_hash


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda content: content.update(format=99), "format = 99"),
        (lambda content: content["protocol"].update(steps=50), "protocol_hash"),
        (lambda content: content.pop("values"), "damaged"),
        (lambda content: content.update(metric="precision"), "metric = precision: expected fid or fd_"),
        (lambda content: content.update(extra=1), "damaged"),
        (lambda content: content.update(search={"images": 3}), "damaged"),
        (lambda content: content.update(guidance_scale="2"), "damaged.*guidance_scale = '2'"),
        (lambda content: content.update(versions=[]), r"damaged.*versions = \[\]"),
        (lambda content: content["search"]["cells"][0].update(weights=3), "damaged.*weights = 3"),
        (lambda content: content["search"].update(images=None), "damaged.*images = None"),
        (lambda content: content["values"].update(fd_pixels=[math.nan]), "damaged.*fd_pixels = nan"),
        (lambda content: content["values"].update(fd_pixels=[1e308, 1e308]), r"damaged.*fd_pixels = 1e\+308"),
        (lambda content: content["values"].update(fd_pixels="12"), "damaged.*fd_pixels = '12'"),
        (lambda content: content["values"].update(fd_pixels=["1"]), "damaged.*fd_pixels = '1'"),
        (lambda content: content.update(guidance_scale=math.nan), "damaged.*guidance_scale = nan"),
        (lambda content: content.update(guidance_scale=True), "damaged.*guidance_scale = True"),
        (
            lambda content: content["search"]["cells"][0].update(guidance_scale=math.inf),
            "damaged.*guidance_scale = inf",
        ),
        (lambda content: content["search"]["cells"][0].update(metrics={"fid": -math.inf}), "damaged.*fid = -inf"),
    ],
)
def test_a_certificate_that_was_changed_is_refused(tmp_path, change, word):
    path = tmp_path / "evaluation.json"
    write_certificate(path, CERTIFICATE)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=word) as caught:
        read_certificate(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", "[" * 100_000])
def test_a_file_that_is_no_certificate_is_refused(tmp_path, text):
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(UserError, match="damaged"):
        read_certificate(path)
    with pytest.raises(UserError, match="no such file"):
        read_certificate(tmp_path / "none.json")
