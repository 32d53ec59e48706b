//! The catalogue of events: what each service's log can hold, in the words of its `.proto`.
//! `BLESS=1 cargo test -p holmes catalogue` writes the page anew.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, ExtensionDescriptor, FileDescriptor, Kind, MessageDescriptor, Value,
};

use crate::docs::compare;

/// The comments of a file, by the path of what they stand before.
fn comments(file: &FileDescriptor) -> HashMap<Vec<i32>, String> {
    let info = file.file_descriptor_proto().source_code_info.clone().unwrap_or_default();
    // `<asset>` is a word of ours, not a tag.
    let of = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace('<', "&lt;");
    info.location.iter().map(|at| (at.path.clone(), of(at.leading_comments()))).collect()
}

fn is_set(options: &prost_reflect::DynamicMessage, extension: &ExtensionDescriptor) -> bool {
    options.get_extension(extension).as_ref() == &Value::Bool(true)
}

fn type_of(field: &prost_reflect::FieldDescriptor) -> String {
    let one = match field.kind() {
        Kind::Message(message) => message.name().to_owned(),
        Kind::Enum(of) => of.name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    if field.is_list() { format!("repeated {one}") } else { one }
}

/// What events are made of.
enum Part {
    Message(MessageDescriptor),
    Enum(EnumDescriptor),
}

/// Enums whose values stand in columns of bytes, one each, so that no field names their type.
const IN_COLUMNS: [&str; 2] = ["holmes.ledger.v1.TransferKind", "holmes.ledger.v1.TransferCode"];

struct Catalogue {
    parts: BTreeMap<String, Part>,
    pool: DescriptorPool,
    public: ExtensionDescriptor,
    sends: ExtensionDescriptor,
    text: String,
}

impl Catalogue {
    fn service(&mut self, number: u16, name: &str) {
        let path = format!("holmes/{name}/v1/events.proto");
        let file = self.pool.get_file_by_name(&path).expect("its events");
        let comments = comments(&file);
        let event = file.messages().find(|message| message.name() == "Event").expect("an Event");
        writeln!(
            self.text,
            "\n## {name}\n\nService {number}, stream `evt.v1.<cell>.{name}`, file `proto/{path}`.\n"
        )
        .expect("a string");
        for field in event.fields() {
            let Kind::Message(message) = field.kind() else {
                panic!("{}: an event is a message", field.full_name())
            };
            self.event(field.number(), &message, &comments);
        }
    }

    fn event(&mut self, number: u32, message: &MessageDescriptor, comments: &HashMap<Vec<i32>, String>) {
        let public = if is_set(&message.options(), &self.public) { ", public" } else { "" };
        let at = message.path().to_vec();
        let said = comments.get(&at).cloned().unwrap_or_default();
        assert!(!said.is_empty(), "{} has no comment", message.full_name());
        writeln!(self.text, "### {} ({number}{public})\n\n{said}\n", message.name()).expect("a string");
        if message.fields().len() == 0 {
            return;
        }
        self.fields(message, comments);
    }

    fn fields(&mut self, message: &MessageDescriptor, comments: &HashMap<Vec<i32>, String>) {
        self.text.push_str("| | field | type | meaning |\n| --- | --- | --- | --- |\n");
        for field in message.fields() {
            self.found(field.kind());
            let said = comments.get(field.path()).map_or("", String::as_str).replace('|', "\\|");
            assert!(!said.is_empty(), "{} has no comment", field.full_name());
            let sent = match field.options().get_extension(&self.sends).as_ref() {
                Value::String(to) if !to.is_empty() => format!(" **Sent to {to}.**"),
                _ => String::new(),
            };
            let (number, name, of) = (field.number(), field.name().to_owned(), type_of(&field));
            writeln!(self.text, "| {number} | `{name}` | {of} | {said}{sent} |").expect("a string");
        }
        self.text.push('\n');
    }

    /// Remembers what a field is made of, and what that is made of.
    fn found(&mut self, kind: Kind) {
        let (name, part) = match kind {
            Kind::Message(message) => (message.full_name().to_owned(), Part::Message(message)),
            Kind::Enum(of) => (of.full_name().to_owned(), Part::Enum(of)),
            _ => return,
        };
        if self.parts.contains_key(&name) {
            return;
        }
        let within: Vec<Kind> = match &part {
            Part::Message(message) => message.fields().map(|field| field.kind()).collect(),
            Part::Enum(_) => Vec::new(),
        };
        self.parts.insert(name, part);
        within.into_iter().for_each(|kind| self.found(kind));
    }

    fn parts(&mut self) {
        for name in IN_COLUMNS {
            self.found(Kind::Enum(self.pool.get_enum_by_name(name).expect("an enum")));
        }
        self.text.push_str("\n## What events are made of\n\n");
        for (name, part) in std::mem::take(&mut self.parts) {
            let (file, path) = match &part {
                Part::Message(message) => (message.parent_file(), message.path().to_vec()),
                Part::Enum(of) => (of.parent_file(), of.path().to_vec()),
            };
            let comments = comments(&file);
            let said = comments.get(&path).map_or("", String::as_str);
            writeln!(self.text, "### {name}\n\n{said}\n").expect("a string");
            match part {
                Part::Message(message) => self.fields(&message, &comments),
                Part::Enum(of) => self.values(&of, &comments),
            }
        }
    }

    fn values(&mut self, of: &EnumDescriptor, comments: &HashMap<Vec<i32>, String>) {
        self.text.push_str("| | value | meaning |\n| --- | --- | --- |\n");
        for value in of.values() {
            let said = comments.get(value.path()).map_or("", String::as_str).replace('|', "\\|");
            writeln!(self.text, "| {} | `{}` | {said} |", value.number(), value.name()).expect("a string");
        }
        self.text.push('\n');
    }
}

#[test]
fn the_catalogue_of_events_is_what_the_protos_say() {
    let pool = DescriptorPool::decode(holmes_proto::DESCRIPTORS).expect("descriptors");
    let extension = |name: &str| pool.get_extension_by_name(name).expect("the option");
    let (public, sends) = (extension("holmes.public"), extension("holmes.sends"));
    let text = "# Events\n\nEvery event that a service's log can hold, by the service's number; a test keeps this page and the \
         protos together. The number behind an event is its field in `Event`. Only a *public* event leaves its service: others \
         follow it, and readers find it by (service, sequence number). Bytes of an event are never changed once they are \
         written; fields are never renumbered.\n\nA field of many ids, principals or numbers is a *column*: bytes of one width \
         behind each other, item i at position i of every column. `holmes replay` prints ids, principals, leases and columns as \
         texts and lists, kinds and codes by their names, other bytes in hexadecimal digits, names of fields in camelCase; `holmes call` prints other bytes in \
         base64. A service of another process follows [the streams](../how-to/follow-the-streams.md), or asks the Replay API; \
         what the types are made of [closes the page](#what-events-are-made-of).\n";
    let parts = BTreeMap::new();
    let mut catalogue = Catalogue { parts, pool, public, sends, text: text.to_owned() };
    for (number, name) in holmes_proto::SERVICES {
        catalogue.service(number.0, name);
    }
    catalogue.parts();
    compare("events.md", &format!("{}\n", catalogue.text.trim_end()));
}
