"""The configuration: what is in force follows file, environment, flag; what is wrong is named with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config import Config, ConfigProblem, address, keys, load


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "skerry.toml"
    file.write_text(text)
    return file


def problem(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigProblem) as caught:
        load(written(tmp_path, text), {}, {})
    return str(caught.value)


def test_without_anything_said_the_defaults_are_in_force() -> None:
    assert load(None, {}, {}) == Config()


def test_a_flag_goes_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, '[http]\nlisten = "127.0.0.1:1"\n[site]\nname = "alder"\n[ping]\nevery_s = 3')
    environment = {"SKERRY_HTTP_LISTEN": "127.0.0.1:2", "SKERRY_SITE_NAME": "birch", "SKERRY_PING_ENABLED": "false"}
    config = load(file, environment, {"http.listen": "127.0.0.1:3", "site.name": None})
    assert config.http.listen == "127.0.0.1:3"
    assert config.site.name == "birch"
    assert (config.ping.every_s, config.ping.enabled) == (3.0, False)


PLANT = '[[bridge]]\nname = "plant"\nurl = "mqtts://broker.example"\ntopics = ["s/{node}"]\n'


def test_a_list_of_tables_comes_from_the_file(tmp_path: Path) -> None:
    text = PLANT + PLANT.replace("plant", "quay") + 'version = "5"\n'
    plant, quay = load(written(tmp_path, text), {"SKERRY_BRIDGE_NAME": "ghost"}, {}).bridge
    assert (plant.name, plant.topics, plant.version) == ("plant", ("s/{node}",), "3.1.1")
    assert (quay.name, quay.version) == ("quay", "5")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[bridge]\nname = "plant"', "write [[bridge]] and its keys below it"),
        ("bridge = [1]", "write [[bridge]] and its keys below it"),
        (PLANT + 'topic = "a"', "[[bridge]] has no key 'topic'; did you mean 'topics'?"),
        ('[[bridge]]\nname = "plant"', "missing required field `url`"),
        (PLANT + PLANT, "two bridges are named 'plant'"),
        (PLANT * 17, "the number of [[bridge]] is 17; it must be between 0 and 16"),
        (PLANT.replace("plant", "The Plant"), "lower-case letters"),
        (PLANT.replace("mqtts:", "http:"), "url is mqtt://HOST:PORT"),
        (PLANT.replace("broker.example", "broker.example:x"), "url is mqtt://HOST:PORT"),
        (PLANT.replace("broker.example", "u:geheim@broker.example"), "say user, and password_file or password_env"),
        (PLANT + 'user = "u"\npassword_file = "a"\npassword_env = "B"', "two places for one password"),
        (PLANT + 'password_env = "B"', "a password needs its user"),
        (PLANT + 'key_file = "a"', "name that too"),
        (PLANT.replace("mqtts:", "mqtt:") + 'ca_file = "a"', "are for mqtts://"),
        (PLANT + 'version = "3.1"', "version is 3.1.1 or 5"),
        (PLANT + "keep_alive_s = 1", "between 5 and 3600"),
        (PLANT.replace("{node}", "+"), "names no node"),
        (PLANT.replace('["s/{node}"]', "[" + ", ".join(f'"{n}/{{node}}"' for n in range(65)) + "]"), "more than 64"),
    ],
)
def test_what_is_wrong_with_a_bridge_is_said_without_its_secrets(tmp_path: Path, text: str, words: str) -> None:
    said = problem(tmp_path, text)
    assert words in said
    assert "geheim" not in said


def test_a_name_in_the_environment_that_looks_like_a_number_stays_a_name() -> None:
    assert load(None, {"SKERRY_SITE_NAME": "7"}, {}).site.name == "7"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[syslog]\nupd = "127.0.0.1:1"', "[syslog] has no key 'upd'; did you mean 'udp'?"),
        ('[sysolg]\nudp = "127.0.0.1:1"', "there is no section [sysolg]; did you mean 'syslog'?"),
        ("[xyzzy]\n", "there is no section [xyzzy]; it knows site, http, syslog, "),
        ('[site]\nzzz = "a"', "it knows name, tenant"),
        ("http = 5", "http is a section; write [http] and its keys below it"),
        ('[ping]\nevery_s = "often"', "Expected `float`, got `str` - at `$.ping.every_s`"),
        ("[ping]\nevery_s = 0.0", "ping.every_s is 0.0; it must be between 0.2 and 3600.0"),
        ("[ping]\nevery_s = nan", "ping.every_s is nan; it must be between"),
        ("[budget]\nretention_days = -1.0", "budget.retention_days is -1.0"),
        ("[budget]\ntotal_mib = -5", "budget.total_mib is -5"),
        ('[site]\nname = ""', "site.name must have 1 to 64 characters"),
        ('[http]\nlisten = ""', "http.listen is ''; write HOST:PORT"),
        ('[http]\nlisten = "8080"', "write HOST:PORT, such as 0.0.0.0:5514 or [::]:5514"),
        ('[syslog]\nudp = "10.0.0.1:70000"', "syslog.udp is '10.0.0.1:70000'"),
        ("[site\n", "it is not TOML: "),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(tmp_path: Path, text: str, words: str) -> None:
    said = problem(tmp_path, text)
    assert words in said
    assert "\n" not in said


def test_the_file_is_named_when_it_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblem, match=r"absent\.toml: there is no such file"):
        load(tmp_path / "absent.toml", {}, {})
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigProblem, match=r"bytes\.toml: it cannot be read"):
        load(tmp_path / "bytes.toml", {}, {})
    with pytest.raises(ConfigProblem, match="it cannot be read"):
        load(tmp_path, {}, {})


def test_a_bad_value_in_the_environment_is_named_by_its_variable() -> None:
    with pytest.raises(ConfigProblem, match="SKERRY_PING_EVERY_S='often'"):
        load(None, {"SKERRY_PING_EVERY_S": "often"}, {})


def test_an_intake_is_turned_off_by_an_empty_address() -> None:
    assert load(None, {"SKERRY_SYSLOG_TCP": ""}, {}).syslog.tcp == ""


@pytest.mark.parametrize(
    ("text", "pair"),
    [("0.0.0.0:5514", ("0.0.0.0", 5514)), ("[::]:80", ("::", 80)), ("alder.local:0", ("alder.local", 0))],
)
def test_an_address_is_a_host_and_a_port(text: str, pair: tuple[str, int]) -> None:
    assert address(text, "http.listen") == pair


@pytest.mark.parametrize("text", ["", ":", "host", "host:", ":80", "host:x", "host:-1", "host:65536"])
def test_what_is_no_address_says_so(text: str) -> None:
    with pytest.raises(ConfigProblem, match=r"http\.listen"):
        address(text, "http.listen")


def test_every_default_passes_the_checks_by_its_variable_too() -> None:
    environment = {
        f"SKERRY_{section}_{key}".upper(): str(getattr(getattr(Config(), section), key)) for section, key, _ in keys()
    }
    assert load(None, environment, {}) == Config()
