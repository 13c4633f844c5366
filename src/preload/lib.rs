//! The exported C names.
#![no_std]
#![no_builtins]
#![allow(unsafe_code)]

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
