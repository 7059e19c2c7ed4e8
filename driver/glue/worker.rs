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
    sync::atomic::{
        Atomic,
        Full,
        Relaxed,
        Release, //
    },
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
/// is that of the object. `queue` is a work queue, which only this work is ever put on. `waiters` is
/// initialised.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Worker<J: Job> {
    #[pin]
    work: Opaque<bindings::work_struct>,
    queue: NonNull<bindings::workqueue_struct>,
    #[pin]
    waiters: Opaque<bindings::wait_queue_head>,
    /// How often it was asked.
    asked: Atomic<usize>,
    /// The value of `asked` when the last run that has ended began.
    done: Atomic<usize>,
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
                waiters <- Opaque::ffi_init(|slot| {
                    // SAFETY: As above.
                    unsafe { inline::ashmem_init_waitqueue_head(slot) }
                }),
                asked: Atomic::new(0),
                done: Atomic::new(0),
                job,
            }? Error))
        })
    }

    /// What it does.
    pub(crate) fn job(&self) -> &J {
        &self.job
    }

    /// Has the job run, once from now on at least; gives what [`Self::wait`] asks for. May be called in any
    /// context.
    pub(crate) fn ask(&self) -> usize {
        let ticket = self.asked.fetch_add(1, Full) + 1;
        // SAFETY: By the type invariants, both are initialised; `drop` waits for the work.
        unsafe { inline::ashmem_queue_work(self.queue.as_ptr(), self.work.get()) };
        ticket
    }

    /// Waits until a run has ended that began after the call of [`Self::ask`], or for so many ticks of the
    /// clock.
    pub(crate) fn wait(&self, ticket: usize, ticks: c_long) {
        // SAFETY: By the type invariants, the queue is initialised; the counter may be read at any time.
        unsafe { inline::ashmem_wait_until(self.waiters.get(), self.done.as_ptr(), ticket, ticks) };
    }

    /// # Safety
    ///
    /// For the work queue, with the work of a `Self`.
    unsafe extern "C" fn run(work: *mut bindings::work_struct) {
        // SAFETY: By the type invariants, this is the address of the object, and `drop` waits.
        let this = unsafe { &*work.cast::<Self>() };
        let asked = this.asked.load(Relaxed);
        this.job.run();
        this.done.store(asked, Release);
        // SAFETY: By the type invariants, it is initialised.
        unsafe { inline::ashmem_wake_up_all(this.waiters.get()) };
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
