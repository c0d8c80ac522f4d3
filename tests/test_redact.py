"""No secret survives redaction, and normal text does."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuzarr.errors import StoreError
from gpuzarr.redact import redact

SECRET = "hUnter2/Zx+9=="
PLAIN = "hUnter2Zx9"


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hUnter2Zx9@host/path",
        "https://hUnter2Zx9@host/path",
        "http://user:p@hUnter2Zx9@host:80/x.zarr failed",
        "cannot read s3://AK:hUnter2Zx9@bucket/key",
        "https://host/a?sig=hUnter2Zx9",
        "https://acc.blob.core.windows.net/c/b?sv=2020&se=2030-01-01&sp=r&sig=hUnter2%2FZx9",
        "error sending request for url (https://h/x?X-Amz-Credential=A%2F1&X-Amz-Signature=hUnter2Zx9)",
        "GET /c/b?sp=r&sig=hUnter2Zx9&x=1 HTTP/1.1",
        "X-Amz-Security-Token: hUnter2Zx9",
        "x-goog-signature=hUnter2Zx9",
        "X-Amz-Signature%3DhUnter2Zx9",
        "Authorization: Bearer hUnter2Zx9",
        "Authorization: Basic hUnter2Zx9==",
        "{'Authorization': 'Bearer hUnter2Zx9'}",
        "{'authorization': b'Token hUnter2Zx9'}",
        "authorization: AWS4-HMAC-SHA256 Credential=AK/1/s3, SignedHeaders=host, Signature=hUnter2Zx9",
        "Cookie: session=hUnter2Zx9; other=1",
        "x-api-key: hUnter2Zx9",
        "{'key': 'AK', 'secret': 'hUnter2Zx9', 'anon': False}",
        "{'key': 'AKIAIOSFODNN7EXAMPLE'}".replace("AKIAIOSFODNN7EXAMPLE", "AKIAHUNTER2ZX9XXXXXX") + " hidden",
        "{'token': 'hUnter2Zx9'}",
        '{"account_key": "hUnter2Zx9 with spaces"}',
        "S3Store(secret_access_key='hUnter2Zx9', region='eu')",
        "aws_secret_access_key=hUnter2Zx9",
        "AWS_SESSION_TOKEN=hUnter2Zx9",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hUnter2Zx9;EndpointSuffix=core",
        "SharedAccessSignature=sv=1&sig=hUnter2Zx9",
        "{'sas_token': 'sv=1&sig=hUnter2Zx9'}",
        "{'azure_storage_sas_key': 'hUnter2Zx9'}",
        "client_secret: hUnter2Zx9",
        "password = hUnter2Zx9",
        "proxy_password='it\\'s hUnter2Zx9'",
        "{'service_account_key': '{\"private_key\": \"hUnter2Zx9\"}'}",
        '{"private_key": "-----BEGIN PRIVATE KEY-----\\nhUnter2Zx9\\n-----END PRIVATE KEY-----"}',
        "-----BEGIN RSA PRIVATE KEY-----\nhUnter2Zx9\n-----END RSA PRIVATE KEY-----",
        "ya29.hUnter2Zx9hUnter2Zx9",
        "eyJhUnter2Zx9.eyJhUnter2Zx9.hUnter2Zx9",
        "connection_string='AccountKey=hUnter2Zx9'",
        "GoogleAccessId=hUnter2Zx9",
        "secret=ab=hUnter2Zx9",
        "Store(secret=ab)cd;&]hUnter2Zx9)",
    ],
)
def test_secrets_go(text: str) -> None:
    hidden = redact(text)
    assert "hunter2" not in hidden.lower()
    assert "***" in hidden
    assert redact(hidden) == hidden
    assert "hunter2" not in str(StoreError(text, store=text, key=text)).lower()
    assert "hunter2" not in repr(StoreError(text, store=text, key=text)).lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s3://bucket/prefix/data.zarr",
        "https://host:8080/a/b@2x/c.zarr",
        "abfss://container@account.dfs.core.windows.net/data.zarr",
        "gs://bucket/key/c/0/0 (key 'temperature/c/0/0', bytes 0-65536)",
        "The disaster in Kansas: 5 basins; casas=2, sassafras: x, signal=3, signed=true, design: good",
        "tokenizer=bert, secretary: Ann, author=Ann, authors: Ann and Bob, assign=1, passes=3",
        "Check the credentials: set them in the environment.",
        "unexpected token: }",
        "token=None, 'password': None, secret=False",
        "unknown codec 'zstd' with configuration {'level': 3, 'checksum': True}",
        "column='key', keys: a, b; monkey=1; keyword: x",
        "What happened? Nothing: a = b and c == d, e: f",
        "units: days since 2000-01-01; missing_value: -999; cell_methods: time: mean",
        "pl.col('sig').is_null() & (pl.col('auth') > 3)",
        "user@example.org wrote to /data/run@3/x",
    ],
)
def test_normal_text_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text(max_size=300))
def test_redacting_twice_changes_nothing(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(
    st.sampled_from(
        ["secret", "aws_secret_access_key", "password", "token", "account_key", "sas_token", "X-Amz-Signature"]
    ),
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=6, max_size=40),
    st.sampled_from(
        ["{n}={v}", "{n}: {v}", "'{n}': '{v}'", '"{n}":"{v}"', "f({n}='{v}', x=1)", "https://h/p?a=1&{n}={v}"]
    ),
)
def test_values_of_secret_names_go(name: str, value: str, form: str) -> None:
    value = "Q7" + value  # no word of the message itself
    assert value not in redact("before " + form.format(n=name, v=value) + " after")


@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000,
        "a-" * 100_000,
        "token" * 40_000,
        "://" * 60_000,
        "a://b" * 40_000,
        "='" * 100_000,
        "x-amz-" * 30_000,
        "secret_" * 30_000,
        "secret='" * 20_000,
        "-----BEGIN PRIVATE KEY-----" * 500,
    ],
)
def test_time_is_bounded(text: str) -> None:
    begin = time.perf_counter()
    redact(text)
    assert time.perf_counter() - begin < 5.0
