// SPDX-License-Identifier: GPL-2.0-only

//! A job that can be asked for in any context and is done in a thread of the kernel's, also when
//! memory is short.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use super::bindings as inline;
use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*,
    types::Opaque, //
};

/// What a [`Worker`] does.
pub(crate) trait Job: Send + Sync + 'static {
    /// Does what was asked for. May sleep.
    fn run(&self);
}

/// A job and the queue that it is done on, one run at a time. Dropping it waits for what was asked for.
///
/// # Invariants
///
/// `work` is initialised, with [`Self::run`] as its function, and is the first field, so that its address
/// is that of the object. `queue` is a work queue, which only this work is ever put on.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Worker<J: Job> {
    #[pin]
    work: Opaque<bindings::work_struct>,
    queue: NonNull<bindings::workqueue_struct>,
    job: J,
}

// SAFETY: Work may be queued on any thread, and waited for; a `J` is `Send + Sync`.
unsafe impl<J: Job> Send for Worker<J> {}
// SAFETY: As above.
unsafe impl<J: Job> Sync for Worker<J> {}

impl<J: Job> Worker<J> {
    /// A worker that has nothing to do. `name` is that of the queue. May sleep.
    pub(crate) fn new(name: &'static CStr, job: J) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            // SAFETY: The name is a C string that stays.
            let queue = unsafe { inline::ashmem_alloc_workqueue(name.as_char_ptr()) };
            let queue = NonNull::new(queue).ok_or(ENOMEM)?;

            Ok(try_pin_init!(Self {
                // INVARIANT: This cannot fail, so that the queue is not lost.
                work <- Opaque::ffi_init(|slot| {
                    // SAFETY: The slot may be written to, and stays where it is.
                    unsafe { inline::ashmem_init_work(slot, Some(Self::run)) }
                }),
                queue,
                job,
            }? Error))
        })
    }

    /// What it does.
    pub(crate) fn job(&self) -> &J {
        &self.job
    }

    /// Has the job run, once from now on at least. May be called in any context.
    pub(crate) fn ask(&self) {
        // SAFETY: By the type invariants, both are initialised; `drop` waits for the work.
        unsafe { inline::ashmem_queue_work(self.queue.as_ptr(), self.work.get()) };
    }

    /// Whether it was asked for and is not done yet.
    pub(crate) fn is_busy(&self) -> bool {
        // SAFETY: By the type invariants, the work is initialised.
        unsafe { bindings::work_busy(self.work.get()) != 0 }
    }

    /// # Safety
    ///
    /// For the work queue, with the work of a `Self`.
    unsafe extern "C" fn run(work: *mut bindings::work_struct) {
        // SAFETY: By the type invariants, this is the address of the object, and `drop` waits.
        let this = unsafe { &*work.cast::<Self>() };
        this.job.run();
    }
}

#[pinned_drop]
impl<J: Job> PinnedDrop for Worker<J> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants, it is a work queue, and ours. It does what was asked for
        // first.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) };
    }
}
