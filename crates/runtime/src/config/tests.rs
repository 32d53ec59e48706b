//! What a configuration is read as, and what is said of a wrong one.
#![allow(clippy::result_large_err)] // closures of a jail answer figment's own large error

use figment::Jail;

use super::*;

fn jailed(test: impl FnOnce(&mut Jail) -> figment::Result<()>) {
    Jail::expect_with(test);
}

#[test]
fn every_key_is_explained_and_every_explained_key_exists() {
    let value = figment::value::Value::serialize(Config::default()).unwrap();
    let sections = value.as_dict().unwrap();
    let mut keys: Vec<String> = Vec::new();
    for (section, value) in sections {
        keys.extend(value.as_dict().unwrap().keys().map(|key| format!("{section}.{key}")));
    }
    let mut explained: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
    explained.sort_unstable();
    keys.sort_unstable();
    assert_eq!(keys, explained);
}

#[test]
fn the_environment_goes_before_the_file_and_the_file_before_the_defaults() {
    jailed(|jail| {
        jail.create_file("holmes.toml", "[server]\nmax_calls = 5\ndeadline_ms = 7\n")?;
        jail.set_env("HOLMES__SERVER__MAX_CALLS", "6");
        let config = load(Some(Path::new("holmes.toml"))).unwrap();
        assert_eq!((config.server.max_calls, config.server.deadline_ms), (6, 7));
        assert_eq!(config.server.drain_ms, Server::default().drain_ms);
        let rows = explain(Some(Path::new("holmes.toml"))).unwrap();
        let source = |key| rows.iter().find(|row| row.key == key).map(|row| row.source.clone()).unwrap();
        assert!(source("server.max_calls").contains("environment"));
        assert!(source("server.deadline_ms").contains("holmes.toml"));
        assert_eq!(source("server.drain_ms"), "default");
        Ok(())
    });
}

#[test]
fn what_is_wrong_is_told_by_its_key_what_stands_there_what_is_expected_and_where() {
    for (text, told) in [
        (
            "[server]\nmax_cals = 5\n",
            "server.max_cals: there is no such key; [server] has listen, clients, admin, max_calls,",
        ),
        (
            "[sever]\nmax_calls = 5\n",
            "sever: there is no such key; the sections are cell, store, bus, cluster,",
        ),
        (
            "[server]\nmax_calls = \"many\"\n",
            "server.max_calls = \"many\": a whole number from 0 on is expected",
        ),
        ("[server]\nmax_calls = -1\n", "server.max_calls = -1: a whole number from 0 on is expected"),
        ("[cell]\nnumber = 70000\n", "cell.number = 70000: a whole number from 0 to 65535 is expected"),
        ("[cell]\nnumber = 0\n", "cell.number = 0: cells are numbered from 1"),
        ("[server]\nlisten = \"nowhere\"\n", "server.listen = \"nowhere\": an address with its port, as in"),
        ("[server]\nlisten = 7070\n", "server.listen = 7070: an address with its port, as in"),
        ("server = 5\n", "server = 5: a section with keys of its own is expected"),
        ("[store]\naccept_clock = \"yes\"\n", "store.accept_clock = \"yes\": true or false is expected"),
        ("[store]\ndir = 5\n", "store.dir = 5: a text (in quotes) is expected"),
        ("[server]\nmax_request_bytes = 1\n", "server.max_request_bytes = 1: 1024 bytes to 64 MiB"),
        ("[server]\nmax_calls = 9000000000000000000\n", "1 to 1000000"),
        ("[server]\nmax_calls_per_connection = 0\n", "1 to 1000000"),
        ("[telemetry]\nformat = \"xml\"\n", "telemetry.format = \"xml\": text or json is expected"),
        ("[telemetry]\nformat = 5\n", "telemetry.format = 5: text or json is expected"),
        ("[server\n", "TOML parse error at line 1"),
    ] {
        jailed(|jail| {
            jail.create_file("holmes.toml", text)?;
            let error = load(Some(Path::new("holmes.toml"))).unwrap_err().to_string();
            for words in [told, "\n  in holmes.toml; `holmes config explain"] {
                assert!(error.contains(words), "{text:?} gave {error:?}");
            }
            for inner in ["usize", "figment", "struct ", "default.", "Some("] {
                assert!(!error.contains(inner), "{text:?} gave {error:?}");
            }
            Ok(())
        });
    }
    assert!(matches!(load(Some(Path::new("absent.toml"))), Err(ConfigError::NoFile(_))));
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    jailed(|jail| {
        let text = "[server]\nmax_cals = 5\nmax_calls = \"many\"\nmax_streams = 0\n[sever]\na = 1\n[cell]\nnumber = 0\n";
        jail.create_file("holmes.toml", text)?;
        jail.set_env("HOLMES__GATEWAY__MAX_CALLS", "0");
        let error = load(Some(Path::new("holmes.toml"))).unwrap_err().to_string();
        for key in [
            "server.max_cals: ",
            "server.max_calls = ",
            "server.max_streams = 0",
            "sever: ",
            "cell.number = 0",
            "gateway.max_calls = 0",
        ] {
            assert_eq!(error.matches(key).count(), 1, "{key} in {error}");
        }
        assert!(error.contains("in the environment variable HOLMES__GATEWAY__MAX_CALLS"), "{error}");
        assert_eq!(error.matches("in holmes.toml").count(), 5, "{error}");
        Ok(())
    });
}

#[test]
fn what_is_wrong_in_the_environment_is_told_by_its_variable() {
    for (variable, value, told) in [
        ("HOLMES__SERVER__MAX_CALLS", "many", "server.max_calls = \"many\": a whole number"),
        ("HOLMES__SERVER__MAX_CALLS", "0", "server.max_calls = 0: 1 to 1000000"),
        ("HOLMES__SERVER__MAX_CALS", "5", "server.max_cals: there is no such key"),
        ("HOLMES__SERVER__LISTEN", "x", "server.listen = \"x\": an address with its port"),
    ] {
        jailed(|jail| {
            jail.set_env(variable, value);
            let error = load(None).unwrap_err().to_string();
            let place = format!("\n  in the environment variable {variable}; `holmes config explain");
            assert!(error.contains(told) && error.contains(&place), "{variable}={value} gave {error:?}");
            Ok(())
        });
    }
}

#[test]
fn a_file_that_is_no_toml_is_not_explained_as_if_it_said_nothing() {
    jailed(|jail| {
        jail.create_file("holmes.toml", "[server\n")?;
        assert!(explain(Some(Path::new("holmes.toml"))).is_err());
        Ok(())
    });
}

#[test]
fn what_is_dumped_can_be_loaded() {
    jailed(|jail| {
        jail.create_file("holmes.toml", &Config::default().to_toml())?;
        assert_eq!(load(Some(Path::new("holmes.toml"))).unwrap(), Config::default());
        Ok(())
    });
}
