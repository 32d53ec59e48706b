//! Compiles every `.proto` without protoc and derives `kernel::Event` from the options of the events.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FileDescriptor, MessageDescriptor, Value,
};

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=holmes");
    let mut files = Vec::new();
    protos(Path::new("holmes"), &mut files)?;
    files.sort();
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    std::fs::write(out.join("events.rs"), events(&compiler.descriptor_pool())?)?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .include_file("packages.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

fn protos(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            protos(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

/// `impl kernel::Event` for the `Event` message of every `events.proto`.
fn events(pool: &DescriptorPool) -> Result<String> {
    let extension =
        |name: &str| pool.get_extension_by_name(name).with_context(|| format!("no option {name}"));
    let options = Options {
        service: extension("holmes.service")?,
        public: extension("holmes.public")?,
        sends: extension("holmes.sends")?,
    };
    let mut services: Vec<(u32, String, FileDescriptor)> = Vec::new();
    for file in pool.files().filter(|file| file.name().ends_with("/events.proto")) {
        let number = uint(&file.options(), &options.service);
        ensure!(number > 0, "{}: every events.proto says (holmes.service) = its number", file.name());
        let name =
            file.package_name().split('.').nth(1).context("packages are holmes.<service>.v1")?.to_owned();
        let taken = services.iter().find(|(other, ..)| *other == number);
        ensure!(taken.is_none(), "{}: service number {number} is taken", file.name());
        services.push((number, name, file));
    }
    services.sort_by_key(|(number, ..)| *number);
    let mut code = String::new();
    writeln!(code, "/// Every service's number and name.\npub const SERVICES: &[(ServiceId, &str)] = &[")?;
    for (number, name, _) in &services {
        writeln!(code, "    (ServiceId({number}), \"{name}\"),")?;
    }
    writeln!(code, "];")?;
    for (number, name, file) in &services {
        let event =
            file.messages().find(|m| m.name() == "Event").context("events.proto has no message Event")?;
        code.push_str(&event_impl(*number, name, &event, &options, &services)?);
    }
    Ok(code)
}

struct Options {
    service: ExtensionDescriptor,
    public: ExtensionDescriptor,
    sends: ExtensionDescriptor,
}

fn event_impl(
    number: u32,
    service: &str,
    event: &MessageDescriptor,
    options: &Options,
    services: &[(u32, String, FileDescriptor)],
) -> Result<String> {
    let oneof = event.oneofs().next().context("Event has one oneof")?;
    ensure!(
        oneof.name() == "event" && event.fields().count() == oneof.fields().count(),
        "Event is one oneof `event`"
    );
    let (mut names, mut publics, mut sends) = (String::new(), String::new(), String::new());
    let mut targets: Vec<u32> = Vec::new();
    for field in oneof.fields() {
        let message = field.kind().as_message().context("events are messages")?.clone();
        let variant = pascal(field.name());
        ensure!(
            variant == message.name(),
            "event field {} is named as its message {}",
            field.name(),
            message.name()
        );
        writeln!(names, "            Kind::{variant}(_) => \"{variant}\",")?;
        if bool_of(&message.options(), &options.public) {
            writeln!(publics, "            Some(Kind::{variant}(_)) => true,")?;
        }
        let mut sending = message.fields().filter(|f| !text(&f.options(), &options.sends).is_empty());
        if let Some(field) = sending.next() {
            ensure!(sending.next().is_none(), "{}: an event carries at most one send", message.full_name());
            let to = text(&field.options(), &options.sends);
            let (id, ..) =
                services.iter().find(|(_, name, _)| *name == to).context("sends names no service")?;
            if !targets.contains(id) {
                targets.push(*id);
            }
            let (name, kind) = (field.name(), format!("Some(Kind::{variant}(e))"));
            let arm = format!("{kind} if !e.{name}.is_empty()");
            writeln!(
                sends,
                "            {arm} => Some(SendTo {{ to: ServiceId({id}), command: &e.{name} }}),"
            )?;
        }
    }
    let targets: Vec<String> = targets.iter().map(|id| format!("ServiceId({id})")).collect();
    let targets = targets.join(", ");
    Ok(format!(
        "impl kernel::Event for {service}::v1::Event {{
    const SERVICE: ServiceId = ServiceId({number});
    const SENDS_TO: &'static [ServiceId] = &[{targets}];

    fn name(&self) -> Option<&'static str> {{
        use {service}::v1::event::Event as Kind;
        Some(match self.event.as_ref()? {{
{names}        }})
    }}

    #[allow(clippy::match_single_binding, clippy::match_like_matches_macro, unused_imports)]
    fn is_public(&self) -> bool {{
        use {service}::v1::event::Event as Kind;
        match &self.event {{
{publics}            _ => false,
        }}
    }}

    #[allow(clippy::match_single_binding, unused_imports)]
    fn send(&self) -> Option<SendTo<'_>> {{
        use {service}::v1::event::Event as Kind;
        match &self.event {{
{sends}            _ => None,
        }}
    }}
}}
"
    ))
}

fn uint(options: &DynamicMessage, extension: &ExtensionDescriptor) -> u32 {
    options.get_extension(extension).as_u32().unwrap_or(0)
}

fn bool_of(options: &DynamicMessage, extension: &ExtensionDescriptor) -> bool {
    options.get_extension(extension).as_bool().unwrap_or(false)
}

fn text(options: &DynamicMessage, extension: &ExtensionDescriptor) -> String {
    match options.get_extension(extension).as_ref() {
        Value::String(text) => text.clone(),
        _ => String::new(),
    }
}

fn pascal(snake: &str) -> String {
    let mut out = String::new();
    for part in snake.split('_') {
        let mut chars = part.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    out
}
