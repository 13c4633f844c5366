//! The guard mode's diagnosis: verdicts of generated errors, compared with a naive oracle and with
//! the faults of the MMU model; their words, as text and as JSON; and what lies at an address.
#![cfg(target_pointer_width = "64")]
#![allow(unsafe_code)] // Memory of this process is mapped to be looked at.

#[path = "guard_verdict/calls.rs"]
mod calls;
#[path = "guard_verdict/faults.rs"]
mod faults;
#[path = "guard_verdict/ground.rs"]
mod ground;
#[path = "guard_verdict/json.rs"]
mod json;
#[path = "guard_verdict/lab.rs"]
mod lab;
#[path = "mmu_machine/support.rs"]
#[allow(dead_code)]
mod machine;
#[path = "guard_verdict/objects.rs"]
mod objects;
#[path = "guard_verdict/pool.rs"]
mod pool;
#[path = "guard_verdict/words.rs"]
mod words;
