//! A heap on the simulated kernel: failing calls, limits, a neighbour who moves the break, walls.
//!
//! The script is the model's own; `tests/model/scripts` is where those go that found something.

use crate::model::{Op, Script, World};
use crate::targets::{Target, planted};
use fencepost::os::PageState;

/// The target.
pub const TARGET: Target = Target {
    name: "allocator",
    run: |data| carry_out(&Script::from_bytes(data)),
    print: |data| Script::from_bytes(data).to_string(),
    replay: |text| {
        carry_out(&text.parse()?);
        Ok(())
    },
};

/// The whole heap is looked at after so many operations, and in the end.
const CHECK_EVERY: usize = 8;

fn carry_out(script: &Script) {
    let mut world = World::over_host(script);
    let mut consolidated = false;
    world.run_with(&script.ops, CHECK_EVERY, |world, op| {
        // The bug: after a consolidation a move makes the account forget a page that is in use.
        if planted() {
            consolidated |= op == Op::Consolidate;
            if consolidated && matches!(op, Op::Realloc(..)) && world.live() > 3 {
                world.note(2, PageState::Released);
            }
        }
    });
    world.os().inner().check_computer();
}
