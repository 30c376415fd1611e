import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.config.notation import format_size, ollama_url, parse_seconds, parse_size, parse_url

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@given(st.integers(0, 2**60))
def test_a_size_reads_back_as_it_was_written(size: int) -> None:
    assert parse_size(str(format_size(size))) == size


@given(st.integers(0, 9999), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_a_size_is_its_number_times_its_unit_in_any_case(number: int, unit: str, space: str) -> None:
    for spelled in (unit, unit.lower(), unit.upper()):
        assert parse_size(f"{number}{space}{spelled}") == number * UNITS[unit]


@pytest.mark.parametrize(("text", "size"), [("24GiB", 24 * 2**30), ("1.5GiB", 3 * 2**29), ("0.1kB", 100), ("7", 7)])
def test_sizes_are_exact(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["24G", "", "GiB", "-1GiB", "1e9", "0.3B", "1,5GiB", "1 GiB x", "٣GiB", "1GiB\n2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("30s", 30), ("500ms", 0.5), ("5m", 300), ("2h", 7200), ("1.5s", 1.5)]
)
def test_times_have_units(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "inf", "nan", "5m30s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://gpu:11434", "http://gpu:11434"),
        ("https://gpu.example.org/", "https://gpu.example.org"),
        ("http://[::1]:80/ollama/", "http://[::1]:80/ollama"),
        ("unix:///run/ollama.sock", "unix:///run/ollama.sock"),
        ("http+unix:///run/ollama.sock", "unix:///run/ollama.sock"),
        ("http+unix://%2Frun%2follama.sock", "unix:///run/ollama.sock"),
    ],
)
def test_a_backend_url_has_one_spelling(text: str, url: str) -> None:
    assert parse_url(text) == url
    assert parse_url(url) == url


@pytest.mark.parametrize(
    "text",
    [
        "gpu:11434",
        "ftp://gpu",
        "http://",
        "http://:80",
        "http://gpu:0",
        "http://gpu:65536",
        "http://gpu:x",
        "http://user:pass@gpu",
        "http://gpu?x=1",
        "http://gpu#x",
        "http://gpu\r\nX: y",
        "http://g pu",
        "unix://run/x.sock",
        "unix:///",
    ],
)
def test_what_is_no_backend_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_url(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        # the cases of Ollama's own envconfig test, then those of a client: where it listens is not where it is called
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":1234", "http://127.0.0.1:1234"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1234", "http://example.com:1234"),
        (":0", "http://127.0.0.1:11434"),
        ("1.2.3.4:66000", "http://1.2.3.4:11434"),
        ("1.2.3.4:-1", "http://1.2.3.4:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        (" 1.2.3.4 ", "http://1.2.3.4:11434"),
        ('"1.2.3.4"', "http://1.2.3.4:11434"),
        ("'1.2.3.4'", "http://1.2.3.4:11434"),
        ('" 1.2.3.4 "', "http://1.2.3.4:11434"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://example.com:4321/", "https://example.com:4321"),
        ("https://example.com/ollama", "https://example.com:443/ollama"),
        ("ollama.com", "https://ollama.com:443"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("http://0.0.0.0:5000", "http://127.0.0.1:5000"),
        ("::", "http://[::1]:11434"),
        ("[::]:8080", "http://[::1]:8080"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(text: str, url: str) -> None:
    assert ollama_url(text) == url


@given(st.lists(st.sampled_from([*"09a.:[]/@?# %'\"", "::", "http", "://", "65536"]), max_size=9).map("".join))
def test_any_ollama_host_is_an_address_or_a_value_error(text: str) -> None:
    try:
        url = ollama_url(text)
    except ValueError:
        return
    assert parse_url(url) == url
