use serde::de::DeserializeOwned;

pub use crate::bindings::provider::exports::waypost::plugin::provider::{Health, Place, Runtime, Wanted};
use crate::{CallError, Meta, Result};

impl Wanted {
    /// The provider's settings, typed. Fails with `invalid` in serde's words.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T> {
        settings("provider", &self.settings)
    }
}

impl Place {
    /// A place whose loop is an agent component inside the hub, in a folder that [`crate::workspace::create`] made. The
    /// folder's name is the resource id.
    pub fn component(folder: impl Into<String>) -> Self {
        let folder = folder.into();
        Self {
            resource_id: folder.clone(),
            runtime: Runtime::Component(folder),
            meta: Meta::new(),
        }
    }
}

/// Reads the settings that a person or the operator wrote.
pub(crate) fn settings<T: DeserializeOwned>(of: &str, text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| CallError::invalid(format!("the settings of the {of} do not fit: {error}")))
}

/// What makes the places where agent loops run. The hub calls it for one environment one at a time and keeps the record;
/// a provider keeps nothing but the resource id and its [`crate::state`].
pub trait Provider {
    /// Makes the place. Called again for the same environment, it must answer the same place.
    fn create(wanted: Wanted) -> Result<Place>;

    /// Finds the place again after the hub or the place restarted; `not-found` when it is gone.
    fn reconnect(environment: &str, resource_id: &str) -> Result<Place>;

    /// Looks at the place without changing it.
    fn inspect(resource_id: &str) -> Result<Health>;

    /// Removes the place; removing what is already gone must succeed.
    fn teardown(resource_id: &str) -> Result<()>;
}

/// Makes a component that is a provider, from a type that implements [`Provider`].
#[macro_export]
macro_rules! provider {
    ($provider:ty) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::provider::exports::waypost::plugin::provider::Guest for Component {
                fn create(wanted: $crate::Wanted) -> $crate::Result<$crate::Place> {
                    <$provider as $crate::Provider>::create(wanted)
                }

                fn reconnect(
                    environment: ::std::string::String,
                    resource_id: ::std::string::String,
                ) -> $crate::Result<$crate::Place> {
                    <$provider as $crate::Provider>::reconnect(&environment, &resource_id)
                }

                fn inspect(resource_id: ::std::string::String) -> $crate::Result<$crate::Health> {
                    <$provider as $crate::Provider>::inspect(&resource_id)
                }

                fn teardown(resource_id: ::std::string::String) -> $crate::Result<()> {
                    <$provider as $crate::Provider>::teardown(&resource_id)
                }
            }

            $crate::__export!(provider, export_provider, Component);
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_do_not_fit_are_invalid_in_the_words_of_serde() {
        let wanted = |settings: &str| Wanted {
            environment: "e".to_owned(),
            project: "p".to_owned(),
            settings: settings.to_owned(),
            meta: Meta::new(),
        };
        assert_eq!(wanted("[1, 2]").settings::<Vec<u8>>(), Ok(vec![1, 2]));
        let text = "the settings of the provider do not fit: invalid type: map, expected a sequence at line 1 column 0";
        assert_eq!(wanted("{}").settings::<Vec<u8>>(), Err(CallError::invalid(text)));
    }

    #[test]
    fn the_folder_of_a_component_is_its_resource_id() {
        let place = Place::component("f");
        assert_eq!(place.resource_id, "f");
        assert!(matches!(place.runtime, Runtime::Component(folder) if folder == "f"));
    }
}
