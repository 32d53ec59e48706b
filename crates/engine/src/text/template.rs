//! Chat templates: Jinja, as transformers renders it.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use super::{MAX_TEXT_BYTES, TextError};

/// Most steps of the template's interpreter for one conversation: a template is untrusted code.
const FUEL: u64 = 2_000_000;
const NAME: &str = "chat";

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A parsed chat template.
pub struct Template {
    environment: Environment<'static>,
    begin: String,
    end: String,
}

impl Template {
    /// Parses a template; the spellings of the begin and end tokens are variables of it.
    pub(super) fn new(
        source: &str,
        begin: Option<String>,
        end: Option<String>,
    ) -> Result<Template, TextError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| TextError::Template(e.to_string()))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|e| TextError::Template(e.to_string()))?;
        Ok(Template { environment, begin: begin.unwrap_or_default(), end: end.unwrap_or_default() })
    }

    /// The conversation as the text that the model continues.
    pub fn render(&self, messages: &[Message]) -> Result<String, TextError> {
        let long = messages.iter().map(|m| m.content.len() + m.role.len()).sum();
        if long > MAX_TEXT_BYTES {
            return Err(TextError::TooLong(long));
        }
        let refused = |e: Error| TextError::Messages(e.to_string());
        let template = self.environment.get_template(NAME).map_err(refused)?;
        let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let variables = context! {
            messages => messages.iter().map(message).collect::<Vec<Value>>(),
            add_generation_prompt => true,
            bos_token => self.begin.as_str(),
            eos_token => self.end.as_str(),
        };
        template.render(variables).map_err(refused)
    }
}
