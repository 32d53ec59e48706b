//! A directory of one's own, the binary in it, and a server while there is one.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take before the test says that it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// `holmes serve` on free ports.
pub(crate) const SERVE: [&str; 7] =
    ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--http", "127.0.0.1:0"];

/// Asks until it is so.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A number as JSON has it: in text.
pub(crate) fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no number"))
}

/// A child that does not outlive its test.
pub(crate) struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An empty directory in which commands run.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    /// Profile of its network: a built-in name or a file.
    profile: String,
    /// What of our configuration its commands find in their environment.
    environment: Vec<(&'static str, String)>,
}

/// What a command did.
pub(crate) struct Ran {
    /// Its exit code.
    pub code: i32,
    /// Data.
    pub out: String,
    /// Talk.
    pub err: String,
}

impl Ran {
    /// Its data, which must be JSON, of a command that must have worked.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|why| panic!("{why}: {}", self.out))
    }

    /// Of a command that must fail: with this code, nothing on stdout, and these words on stderr.
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

impl Place {
    pub(crate) fn new() -> Place {
        Place::of("demo")
    }

    /// A directory for a network of a profile.
    pub(crate) fn of(profile: &str) -> Place {
        let dir = tempfile::tempdir().expect("a directory");
        Place { dir, profile: profile.to_owned(), environment: Vec::new() }
    }

    /// A directory whose logs are to lie on the CQL servers of the tests, in a keyspace of their own that nobody has made;
    /// `None`, and said so, where there are none.
    pub(crate) fn over_cql() -> Option<Place> {
        let Ok(servers) = std::env::var("HOLMES_CQL") else {
            eprintln!(
                "NOT TESTED: HOLMES_CQL names no CQL server; `cargo xtask test` starts one where it can"
            );
            return None;
        };
        let keyspace = format!("t{}", holmes_runtime::fresh_id().to_string().replace('-', ""));
        let cell = [("HOLMES__STORE__CQL", servers), ("HOLMES__STORE__KEYSPACE", keyspace)];
        Some(Place { environment: cell.into(), ..Place::new() })
    }

    /// The same for development, with its tables made.
    pub(crate) fn migrated() -> Option<Place> {
        let mut place = Place::over_cql()?;
        place.environment.push(("HOLMES__STORE__DEV", "true".to_owned()));
        let migrated = place.run(&["migrate"]);
        assert_eq!(migrated.code, 0, "{}{}", migrated.out, migrated.err);
        Some(place)
    }

    /// The same with something more in the environment of its commands.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Place {
        self.environment.push((name, value.to_owned()));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The binary with arguments, here, with nothing of ours in its environment.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.clean(env!("CARGO_BIN_EXE_holmes"));
        command.args(words);
        command
    }

    /// A shell with a script, here.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = self.clean("sh");
        command.args(["-c", script]);
        command
    }

    /// What a page's lines say when they are typed here, against a server.
    pub(crate) fn typed(&self, script: &str, server: &str, more: &[(&str, &str)]) -> String {
        let bin = Path::new(env!("CARGO_BIN_EXE_holmes")).parent().expect("a directory");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = self.shell(&format!("set -eu\n{script}\n"));
        command.env("HOLMES_SERVER", server).env("PATH", path).envs(more.iter().copied());
        let ran = command.output().expect("sh runs");
        assert!(ran.status.success(), "{script}\n{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).expect("UTF-8")
    }

    fn clean(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLMES_"))
        {
            command.env_remove(name);
        }
        if self.profile != "demo" {
            command.env("HOLMES__CELL__PROFILE", &self.profile);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        self.run_with(words, "")
    }

    /// Runs with something on stdin.
    pub(crate) fn run_with(&self, words: &[&str], input: &str) -> Ran {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        // A command that does not read its input may be gone already.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        let done = child.wait_with_output().expect("the binary ends");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Ran { code: done.status.code().unwrap_or(-1), out: text(done.stdout), err: text(done.stderr) }
    }

    /// Verifies every log; how many there are.
    pub(crate) fn verified(&self) -> usize {
        let verified = self.run(&["verify", "-o", "json"]).json();
        let rows = verified.as_array().expect("a row for every log");
        assert!(rows.iter().all(|row| row["ok"] == true), "{verified}");
        rows.len()
    }

    /// Lets the audit that shares nothing with us read the log. `cargo xtask test` says which Python has what it needs;
    /// without one, it is left to `tests/test_audit.py`.
    pub(crate) fn audit(&self) {
        let Some(python) = std::env::var_os("HOLMES_PYTHON") else { return };
        assert_eq!(self.run(&["replay", "--frames", "frames"]).code, 0);
        let audit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/audit.py");
        let done = Command::new(python).arg(audit).arg(self.path("frames")).output().expect("Python starts");
        let out = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{out}{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Starts a server on free ports over `holmes-data`; of the ledger and the accounts unless other roles are named,
    /// so that a log holds what a test has put there.
    pub(crate) fn serve(&self, more: &[&str]) -> Server<'_> {
        let mut command = self.command(&["serve", "--admin", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        let listen: &[&str] = if more.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let roles: &[&str] = if more.contains(&"--role") { &[] } else { &["--role", "ledger,accounts"] };
        command.args(listen).args(roles).args(more);
        self.started(command, "holmes-data")
    }

    /// Starts every role as a process of its own, under `holmes-cluster`.
    pub(crate) fn cluster(&self, more: &[&str]) -> Server<'_> {
        let mut command = self.command(&["cluster", "up", "--port", "0"]);
        // Whoever kills this test kills the processes of its processes too.
        command.args(more).arg("--until-stdin-ends").stdin(Stdio::piped());
        self.started(command, "holmes-cluster/keys")
    }

    /// Starts a server and waits until it says where it is reached.
    fn started(&self, mut command: Command, keys: &'static str) -> Server<'_> {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary starts");
        let (say, said) = channel();
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        let child = Killed(child);
        let address = String::new();
        let patience = if keys == "holmes-data" { PATIENCE } else { 4 * PATIENCE }; // many processes start
        let mut server = Server { place: self, child, said, keys, patience, address, lines: Vec::new() };
        while !server.lines.last().is_some_and(|line| line.contains("staff.key")) {
            server.hear();
        }
        server.address = server.told("gRPC ").expect("the server tells its address");
        server
    }
}

/// Sends bytes to an address and answers all that comes back.
pub(crate) fn ask(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // Whoever refuses a request need not read all of it, and may close while we write or read.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A running server; killed when it is dropped.
pub(crate) struct Server<'a> {
    place: &'a Place,
    child: Killed,
    said: Receiver<String>,
    /// The directory of its keys.
    keys: &'static str,
    /// How long it may say nothing.
    patience: Duration,
    /// Where it answers: `http://…`.
    pub address: String,
    /// What it has said on stderr.
    pub lines: Vec<String>,
}

impl Server<'_> {
    fn hear(&mut self) {
        let line = self.said.recv_timeout(self.patience);
        let line = line.unwrap_or_else(|why| panic!("{why}; the server said: {:#?}", self.lines));
        self.lines.push(line);
    }

    /// Waits until it says something on stderr; the line.
    pub(crate) fn says(&mut self, words: &str) -> String {
        loop {
            if let Some(line) = self.lines.iter().find(|line| line.contains(words)) {
                return line.clone();
            }
            self.hear();
        }
    }

    /// An address that it has told.
    fn told(&self, of: &str) -> Option<String> {
        let address = |line: &String| Some(line.split_once(of)?.1.split_whitespace().next()?.to_owned());
        self.lines.iter().find_map(address)
    }

    /// Where it answers HTTP: `127.0.0.1:…`.
    pub(crate) fn http(&self) -> String {
        let told = self.told("HTTP ").expect("it has the role gateway");
        told.trim_start_matches("http://").trim_end_matches("/v1").to_owned()
    }

    /// What `/metrics` says, without the head of the answer.
    pub(crate) fn metrics(&self) -> String {
        let admin = self.told("admin ").expect("the server tells its address");
        let admin = admin.trim_start_matches("http://").trim_end_matches("/metrics");
        let answer = ask(admin, format!("GET /metrics HTTP/1.0\r\nhost: {admin}\r\n\r\n").as_bytes());
        answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
    }

    /// How far each service's log is, as `/metrics` says.
    pub(crate) fn heads(&self) -> BTreeMap<String, u64> {
        let head = |line: &str| {
            let (name, seq) = line.strip_prefix("holmes_log_head{service=\"")?.split_once("\"} ")?;
            Some((name.to_owned(), seq.parse().ok()?))
        };
        self.metrics().lines().filter_map(head).collect()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// SIGTERM, and what came of it.
    pub(crate) fn terminate(mut self) -> (ExitStatus, Vec<String>) {
        let kill = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.pid())).status();
        assert!(kill.expect("sh runs").success());
        let end = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.0.try_wait().expect("a child") {
                Some(status) => break status,
                None => assert!(Instant::now() < end, "it does not stop: {:#?}", self.lines),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        while let Ok(line) = self.said.recv_timeout(Duration::from_secs(1)) {
            self.lines.push(line);
        }
        (status, std::mem::take(&mut self.lines))
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.0.kill().expect("killed");
        self.child.0.wait().expect("gone");
    }

    /// `holmes call` with these arguments.
    pub(crate) fn call(&self, words: &[&str]) -> Ran {
        self.place.run(&[&["call", "--server", &self.address], words].concat())
    }

    /// A call as staff, which must work.
    pub(crate) fn staff(&self, method: &str, request: &Value) -> Value {
        let request = request.to_string();
        let key = format!("{}/staff.key", self.keys);
        let proof = ["--sign-with", &key, "--as", "staff"];
        self.call(&[&[method, &request], &proof[..]].concat()).json()
    }

    /// A call with an API key, which must work.
    pub(crate) fn with_key(&self, key: &str, method: &str, request: &Value) -> Value {
        self.call(&[method, &request.to_string(), "--key", key]).json()
    }

    /// A renter: account and API key, which rents and pays nobody else.
    pub(crate) fn renter(&self, name: &str) -> (String, String) {
        let account = self.account(name);
        let key = self.api_key(&account, &["ROLE_RENTER"], false);
        (account, key)
    }

    /// The API key of a renter that also moves its money.
    pub(crate) fn payer(&self, name: &str) -> String {
        self.api_key(&self.account(name), &["ROLE_RENTER"], true)
    }

    fn account(&self, name: &str) -> String {
        let account = self.new_id();
        let request = json!({ "account_id": account, "name": name, "roles": ["ROLE_RENTER"] });
        self.staff("Accounts/CreateAccount", &request);
        account
    }

    /// An API key of an account.
    pub(crate) fn api_key(&self, account: &str, roles: &[&str], admin: bool) -> String {
        self.api_key_until(account, roles, admin, 0)
    }

    /// An API key that counts until a moment, microseconds since the Unix epoch; 0 for ever.
    pub(crate) fn api_key_until(
        &self,
        account: &str,
        roles: &[&str],
        admin: bool,
        expires_at_us: u64,
    ) -> String {
        let made = self.place.run(&["keys", "api", "-o", "json"]).json();
        let text = |name: &str| made[0][name].as_str().expect("a text").to_owned();
        let (key, hash, id) = (text("api_key"), text("key_hash"), self.new_id());
        let request = json!({
            "account_id": account, "key_id": id, "hash": hash, "roles": roles, "admin": admin,
            "expires_at_us": expires_at_us.to_string(),
        });
        self.staff("Accounts/CreateApiKey", &request);
        key
    }

    /// An account in dollars of a renter, with something in it.
    pub(crate) fn dollars(&self, key: &str, units: u64) -> String {
        let account = self.new_id();
        self.with_key(key, "Ledger/OpenAccount", &json!({ "account_id": account, "asset": 2 }));
        if units > 0 {
            let (units, reference) = (units.to_string(), format!("wire {account}"));
            let request = json!({ "account_id": account, "amount_units": units, "reference": reference });
            self.staff("Ledger/RecordDeposit", &request);
        }
        account
    }

    /// What is in an account, base units.
    pub(crate) fn balance(&self, key: &str, account: &str) -> u64 {
        let found = self.with_key(key, "Ledger/GetAccount", &json!({ "account_id": account }));
        number(&found["account"]["balanceUnits"])
    }

    /// A fresh id.
    pub(crate) fn new_id(&self) -> String {
        self.place.run(&["keys", "id"]).out.trim().to_owned()
    }
}
