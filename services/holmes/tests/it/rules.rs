//! Who may call what, as the `.proto` files say it: `(holmes.access)` on every RPC. The tests that hold the server to these
//! rules read them here, and the page of them is made of them.
//! `BLESS=1 cargo test -p holmes --test it rules` writes the page anew.

use std::fmt::Write as _;
use std::sync::LazyLock;

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};

use crate::docs::compare;
use crate::others;

/// What answers without any proof beside RPCs of ours, and why.
pub(crate) const OPEN: [(&str, &str); 4] = [
    ("grpc.health.v1.Health/Check", "load balancers ask it"),
    ("grpc.health.v1.Health/Watch", "load balancers ask it"),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "tells only what the .proto files tell"),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "the same for older clients"),
];

/// What an account's proof must be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Any,
    Renter,
    Operator,
    Nodes,
    Party,
    Admin,
}

/// A kind of principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Account,
    Staff,
    Service,
    Gateway,
    Node,
}

const CALLERS: [(Caller, &str); 5] = [
    (Caller::Account, "accounts"),
    (Caller::Staff, "staff"),
    (Caller::Service, "services"),
    (Caller::Gateway, "gateways"),
    (Caller::Node, "nodes"),
];

/// What a `.proto` says of one RPC.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// `holmes.ledger.v1.Ledger/GetSupply`.
    pub method: String,
    pub proof: Proof,
    callers: Vec<Caller>,
    /// Paths of the request's fields that name what concerns few.
    pub hides: Vec<String>,
    /// Paths of fields that name what everybody may know to be there.
    pub tells: Vec<String>,
    /// Paths of fields in which the caller names what the request makes.
    pub makes: Vec<String>,
    /// Why it answers a caller without a proof, where it does.
    pub unproven: Option<String>,
    /// Whether its request names itself, so that it happens once however often it comes.
    pub once: bool,
    input: MessageDescriptor,
}

/// The one stream of both sides: it asks for its own nonce.
pub(crate) const ATTACH: &str = "holmes.gateway.v1.Gateway/Attach";

/// How calls begin that change nothing.
const READING: [&str; 7] = ["Get", "List", "Find", "Quote", "Explain", "Read", "Subscribe"];

impl Rule {
    fn of(method: &MethodDescriptor) -> Rule {
        let pool = method.parent_pool();
        let option = pool.get_extension_by_name("holmes.access").expect("the option");
        let full_name = format!("{}/{}", method.parent_service().full_name(), method.name());
        let options = method.options();
        assert!(options.has_extension(&option), "{full_name}: say who may call it, with (holmes.access)");
        let said = options.get_extension(&option);
        let said = said.as_message().expect("a message");
        let input = method.input();
        let mut rule = Rule {
            proof: proof(said, &full_name),
            callers: callers(said, &full_name),
            hides: texts(said, "hides"),
            tells: texts(said, "tells"),
            makes: Vec::new(),
            unproven: Some(text(said, "unproven")).filter(|why| !why.is_empty()),
            once: input.get_field_by_name("request_id").is_some(),
            input,
            method: full_name,
        };
        rule.makes = rule.names_every_thing();
        // Otherwise nobody would try it again, nor as a stranger. That what reads changes nothing is tried, too.
        let reads =
            READING.iter().any(|verb| method.name().starts_with(verb)) && !method.is_client_streaming();
        assert!(
            rule.once || reads || rule.method == ATTACH,
            "{}: what changes something has a request_id, what reads begins with one of {READING:?}",
            rule.method
        );
        rule
    }

    /// Whether this kind of principal may call it, its proof being good enough.
    pub(crate) fn allows(&self, caller: Caller) -> bool {
        self.callers.contains(&caller)
    }

    /// Every path that names a thing, there already or made by the request.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.hides.iter().chain(&self.tells).chain(&self.makes)
    }

    /// A tenant's request names things of somebody: of each the rule says whether strangers may know of it. What the
    /// request makes is there only afterwards: the paths of that.
    fn names_every_thing(&self) -> Vec<String> {
        let mut named = Vec::new();
        things(&self.input, "", &mut named);
        let (method, said) = (&self.method, [&self.hides[..], &self.tells[..]].concat());
        for path in &said {
            let known = named.contains(path) || ["public_key", "name"].contains(&path.as_str());
            assert!(known, "{method} has no field {path} that names a thing");
        }
        let made = MADE.iter().filter(|(of, _)| method.ends_with(of)).map(|(_, path)| (*path).to_owned());
        let made: Vec<String> = made.collect();
        for path in &made {
            let once = named.contains(path) && !said.contains(path);
            assert!(once, "{method} makes no {path}, or (holmes.access) says that it is there");
        }
        let missing: Vec<_> =
            named.iter().filter(|path| !said.contains(path) && !made.contains(path)).collect();
        assert!(
            missing.is_empty(),
            "{method}: say in (holmes.access) whether it hides or tells that what {missing:?} names is there"
        );
        made
    }
}

/// Ids that a caller chooses for what it makes: they name nothing yet.
const MADE: [(&str, &str); 4] = [
    ("Accounts/CreateAccount", "account_id"),
    ("Accounts/CreateApiKey", "key_id"),
    ("Ledger/CreateTransfers", "transfers.transfer_id"),
    ("Ledger/OpenAccount", "account_id"),
];

/// Words that could name somebody's thing, and do not in these messages: what is offered, asked to be called so, or the
/// caller's own.
const WORDS_OF: [(&str, &str); 15] = [
    // Whoever has the secret, or signs: services ask for it, and hear of nothing else.
    ("FindKeyRequest", "api_key_hash"),
    ("FindKeyRequest", "principal"),
    ("CallLine", "call"),
    ("CreateAccountRequest", "name"),
    ("CreateApiKeyRequest", "label"),
    ("Model", "name"),
    ("OfferedKey", "label"),
    ("OfferedKey", "public_key"),
    ("OpenAccountRequest", "name"),
    ("RecordDepositRequest", "reference"),
    ("RecordWithdrawalRequest", "reference"),
    ("RegisterNodeRequest", "public_key"),
    ("RevokePublicKeyRequest", "public_key"),
    ("RotateKeyRequest", "old_public_key"),
    ("StartGatewayRequest", "public_key"),
];

/// Texts and bytes that name nothing of anybody's wherever they stand.
const WORDS: [&str; 24] = [
    "asset",
    "bitmap",
    "capabilities",
    "cause",
    "content",
    "gateway_signature",
    "hash",
    "model",
    "node_signature",
    "nonce",
    "output_commitment",
    "page_token",
    "possession",
    "prompt_commitment",
    "request_id",
    "resume_token",
    "role",
    "service",
    "signature",
    "stop",
    "tenant",
    "text",
    "texts",
    "types",
];

/// Whether a field names a thing that belongs to somebody.
fn names_a_thing(field: &FieldDescriptor) -> bool {
    let name = field.name();
    let id = (name.ends_with("_id") || name.ends_with("_ids")) && name != "request_id";
    let receipt = name == "name" && field.parent_message().name() == "GetReceiptRequest";
    matches!(field.kind(), Kind::String)
        && (id || receipt || ["owner", "renter", "submitter", "debit_owner"].contains(&name))
}

fn things(of: &MessageDescriptor, prefix: &str, found: &mut Vec<String>) {
    for field in of.fields() {
        let path = format!("{prefix}{}", field.name());
        match field.kind() {
            // What a model is given is the renter's own, and what nodes say on their stream they sign there.
            Kind::Message(inner) if !["work", "hello"].contains(&field.name()) && of.name() != "FromNode" => {
                things(&inner, &format!("{path}."), found);
            }
            _ if names_a_thing(&field) => found.push(path),
            Kind::String | Kind::Bytes => {
                let is_word = WORDS.contains(&field.name()) || WORDS_OF.contains(&(of.name(), field.name()));
                let of = of.full_name();
                assert!(is_word, "{of}: does {path} name a thing, or is it one of WORDS?");
            }
            _ => {}
        }
    }
}

fn text(of: &DynamicMessage, name: &str) -> String {
    of.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn texts(of: &DynamicMessage, name: &str) -> Vec<String> {
    let values = of.get_field_by_name(name).expect("a field of the option");
    values.as_list().expect("a list").iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

fn proof(of: &DynamicMessage, method: &str) -> Proof {
    match of.get_field_by_name("proof").and_then(|value| value.as_enum_number()) {
        Some(1) => Proof::Any,
        Some(2) => Proof::Renter,
        Some(3) => Proof::Operator,
        Some(4) => Proof::Nodes,
        Some(5) => Proof::Party,
        Some(6) => Proof::Admin,
        other => panic!("{method}: {other:?} is no proof"),
    }
}

fn callers(of: &DynamicMessage, method: &str) -> Vec<Caller> {
    let values = of.get_field_by_name("callers").expect("a field of the option");
    let numbers = values.as_list().expect("a list").iter().filter_map(|value| value.as_enum_number());
    let all = CALLERS.map(|(caller, _)| caller);
    let callers: Vec<Caller> = numbers
        .flat_map(|number| match number {
            1 => all.to_vec(),
            2..=6 => vec![all[usize::try_from(number - 2).expect("small")]],
            other => panic!("{method}: {other} is no kind of caller"),
        })
        .collect();
    assert!(!callers.is_empty(), "{method}: say which callers it has");
    callers
}

/// The rule of every RPC, by its method.
pub(crate) fn rules() -> &'static [Rule] {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
        let pool = DescriptorPool::decode(holmes_proto::DESCRIPTORS).expect("descriptors");
        let methods: Vec<_> =
            pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
        methods.iter().map(Rule::of).collect()
    });
    &RULES
}

const HEAD: &str = "# Access

Who may call what, made of the option `(holmes.access)` that stands beside every RPC in the `.proto` files; a test keeps
this page and them together (`services/holmes/tests/it/rules.rs`), and others hold the server to it (`access.rs`, `others.rs`,
`strangers.rs` and `scopes.rs` beside it): what they try stands at the end. [Signing](signing.md) says how a request is proved
and what a proof may do.

- **callers**: the kinds of principals that may call it. *Accounts* are the tenants: renters, operators, holders, by API
  key or signature. *Staff* are the people who keep the network, *services* and *gateways* its own processes, *nodes* the
  operators' machines: each by the signature of its key. *All* is each of these. Another is refused with
  `PERMISSION_DENIED` and `FORBIDDEN`, where the fields are valid: an empty request may hear `FIELD_INVALID` first.
- **an account's proof**: what an account's API key must be good for, and its signature where it says a role: `KEY_SCOPE`,
  `ROLE_NEEDED` or `ADMIN_NEEDED` otherwise. *any*: any proof that holds. Where that depends on what is asked, the table
  has the larger for `Unbond` (to an account that is named already a role is enough) and the smaller for `SetAccount` (in
  place of another account it needs admin).
- **hides**: fields that name what concerns few. Whom it does not concern gets the answer that he would get if it were not
  there.
- **tells**: fields that name what every caller may know to be there: nodes, accounts that can be paid, and to gateways,
  which serve every renter, sessions, leases and calls. To know of it is not to have it: a stranger changes nothing of it.
- **again**: *once* carries a `request_id`: the same request again, by whom it was first, gets its answer again and nothing
  happens twice; a call of `Generate` or `Embed` is refused with `CALL_EXISTS`. *reads* changes nothing.

Without a proof every call is refused with `UNAUTHENTICATED`, before its fields are looked at, and so is one whose proof
does not hold: the reason says why (`KEY_UNKNOWN`, `KEY_EXPIRED`, `KEY_REVOKED`, `SIGNATURE_WRONG`, `SIGNATURE_EXPIRED`, …).
But for these, of which the tables say who may call them with one:

";

fn words(rule: &Rule) -> (&'static str, String) {
    let proof = match rule.proof {
        Proof::Any => "any",
        Proof::Renter => "renter",
        Proof::Operator => "operator (of a verifier node: verifier)",
        Proof::Nodes => "operator or verifier",
        Proof::Party => "renter, operator, verifier or admin",
        Proof::Admin => "admin",
    };
    let named = CALLERS.iter().filter(|(caller, _)| rule.allows(*caller)).map(|(_, name)| *name);
    let named: Vec<_> = named.collect();
    let callers = if named.len() == CALLERS.len() { "all".to_owned() } else { named.join(", ") };
    (if rule.allows(Caller::Account) { proof } else { "" }, callers)
}

fn fields(paths: &[String]) -> String {
    paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ")
}

const TRIED: &str = "
## What the tests try

Every RPC above, over the wire, so that a new one fails until it is in the table:

- without a proof; with an API key that nobody has, that has expired, that was revoked; with a signature that is incomplete,
  has expired, counts for too long, or covers another network, method, message, expiry, request id or kind of caller, or is
  another's; with two proofs. `Gateway/Attach` takes the Hello instead: of an unknown node, of another node, signed by
  another node, for another gateway or network, for the question of a stream before.
- by every kind of caller, with proofs that are good for everything, for one role, for `admin` alone, for nothing.
- by an account that names what is another's and what is not there, in every field that hides it, and in every field of an
  RPC that is not for accounts: it hears the same of both.
- by a stranger of the same kind, an account of every role or a second gateway: each *once* that is for accounts or gateways
  is tried with another's thing in every field that names one, before its owner makes the same request. The stranger is
  refused; or it is his own that he gives away (another's account as where money goes, another's node as the one to rent, or
  as what a hold of his own is for); or he is told what there is, and nothing has changed. The logs show that no stranger has
  done anything else.
- again, to the byte and then with a fresh proof: each *once* that was done. The logs of all services show that nothing has
  happened twice.
";

/// What the tests leave out, by what they themselves go by.
fn left_out() -> String {
    let mut text = String::from("\nNo stranger tries:\n\n");
    for (call, field, why) in others::OPEN_TO_STRANGERS {
        writeln!(text, "- `{field}` of `{call}`: {why}").expect("a string");
    }
    text.push_str("\nOf these only requests that are refused come again:\n\n");
    for (call, why) in others::UNPREPARED {
        writeln!(text, "- `{call}`: {why}").expect("a string");
    }
    text
}

#[test]
fn the_page_of_access_is_what_the_proto_files_say() {
    let mut page = HEAD.to_owned();
    let ours = rules().iter().filter_map(|rule| Some((rule.method.as_str(), rule.unproven.as_deref()?)));
    for (method, why) in ours.chain(OPEN) {
        writeln!(page, "- `{method}`: {why}").expect("a string");
    }
    page.push_str(
        "\nThe HTTP of OpenAI's clients (`/v1/…`) knows API keys alone: one that is missing, unknown, revoked or expired \
         is a 401,\nand what makes a model work needs a key that acts as renter, or is a 403.\n",
    );
    let mut service = "";
    for rule in rules() {
        let (of, name) = rule.method.split_once('/').expect("a method");
        if of != service {
            service = of;
            write!(
                page,
                "\n## {of}\n\n| call | callers | an account's proof | hides | tells | again |\n| --- | --- | --- | --- | \
                 --- | --- |\n"
            )
            .expect("a string");
        }
        let (proof, callers) = words(rule);
        let (hides, tells) = (fields(&rule.hides), fields(&rule.tells));
        let again = match (rule.once, of) {
            (true, _) => "once",
            (false, "holmes.gateway.v1.Gateway") => "a stream, once: its nonce",
            (false, _) => "reads",
        };
        writeln!(page, "| `{name}` | {callers} | {proof} | {hides} | {tells} | {again} |").expect("a string");
    }
    page.push_str(TRIED);
    page.push_str(&left_out());
    compare("access.md", &page);
}
