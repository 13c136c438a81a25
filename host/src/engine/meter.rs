//! What one call may use of memory, tables, handles and host-call bytes, summed over all of a component's parts.

use wasmtime::ResourceLimiter;

use crate::config::PluginLimits;

/// Counts what a store uses and remembers the first limit that was hit, since the guest only sees a failed growth.
#[derive(Debug)]
pub struct Meter {
    memory: Bound,
    table: Bound,
    host_call: usize,
    handles: usize,
    hit: Option<Hit>,
    refused: bool,
}

#[derive(Debug)]
struct Bound {
    used: usize,
    most: usize,
}

/// A limit that a guest ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its name in `[limits.plugin]`.
    pub limit: &'static str,
    /// Its value.
    pub most: usize,
}

impl Meter {
    /// A meter that has counted nothing yet.
    pub fn new(limits: &PluginLimits) -> Self {
        Self {
            memory: Bound {
                used: 0,
                most: limits.memory,
            },
            table: Bound {
                used: 0,
                most: limits.table_elements,
            },
            host_call: limits.host_call,
            handles: limits.handles,
            hit: None,
            refused: false,
        }
    }

    /// Bytes that one host call may take in.
    pub fn host_call(&self) -> usize {
        self.host_call
    }

    /// Live handles.
    pub fn handles(&self) -> usize {
        self.handles
    }

    /// Whether the machine refused memory that the limits allow.
    pub fn refused(&self) -> bool {
        self.refused
    }

    /// The limit that stopped the guest, if one did.
    pub fn hit(&self) -> Option<Hit> {
        self.hit
    }
}

impl Bound {
    /// Takes what lies between `current` and `desired`, or nothing.
    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        let fits = used <= self.most;
        if fits {
            self.used = used;
        }
        fits
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = self.memory.grow(current, desired);
        if !fits {
            self.hit.get_or_insert(Hit {
                limit: "memory",
                most: self.memory.most,
            });
        }
        Ok(fits)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // A guest may ask for more than it has set itself.
        self.refused |= !error.to_string().contains("maximum size");
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = self.table.grow(current, desired);
        if !fits {
            self.hit.get_or_insert(Hit {
                limit: "table-elements",
                most: self.table.most,
            });
        }
        Ok(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn memories_are_summed_and_never_exceed_the_limit(steps in proptest::collection::vec((0usize..4, 0usize..40), 0..60)) {
            let mut meter = Meter::new(&PluginLimits { memory: 100, ..PluginLimits::default() });
            let mut memories = [0usize; 4];
            for (which, by) in steps {
                let desired = memories[which] + by;
                if meter.memory_growing(memories[which], desired, None).unwrap() {
                    memories[which] = desired;
                } else {
                    prop_assert_eq!(meter.hit().map(|hit| hit.limit), Some("memory"));
                }
                prop_assert!(memories.iter().sum::<usize>() <= 100);
            }
        }
    }
}
