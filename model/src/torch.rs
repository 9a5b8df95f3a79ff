//! The seam to libtorch: everything that tch does not offer, through the C++ shim, and the translation of libtorch's
//! errors. Nothing else in this crate is unsafe. tch itself is used through its `f_` functions only, because their
//! twins panic.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use memmap2::Mmap;
use tch::{Kind, TchError, Tensor};
use torch_sys::C_tensor;

use crate::error::Error;

unsafe extern "C" {
    fn gristmill_last_error() -> *const c_char;
    fn gristmill_inference_begin(guard: *mut *mut c_void) -> c_int;
    fn gristmill_inference_end(guard: *mut c_void);
    fn gristmill_set_threads(threads: c_int) -> c_int;
    fn gristmill_tensor_over(
        data: *mut c_void,
        shape: *const i64,
        dims: i64,
        kind: c_int,
        owner: *mut c_void,
        release: unsafe extern "C" fn(*mut c_void),
        out: *mut *mut C_tensor,
    ) -> c_int;
    fn gristmill_attention(
        q: *const C_tensor,
        k: *const C_tensor,
        v: *const C_tensor,
        cumulative: *const C_tensor,
        lengths: *const i64,
        count: i64,
        longest: i64,
        out: *mut *mut C_tensor,
    ) -> c_int;
}

/// While it lives, this thread records no gradients. Grad mode is thread-local and starts switched on, so every thread
/// that touches tensors holds one.
pub(crate) struct InferenceMode {
    guard: *mut c_void,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl InferenceMode {
    pub(crate) fn begin() -> Result<Self, Error> {
        let mut guard = ptr::null_mut();
        // SAFETY: `guard` is a place for one pointer.
        check(unsafe { gristmill_inference_begin(&mut guard) })?;
        Ok(InferenceMode { guard, stays_on_its_thread: PhantomData })
    }
}

impl Drop for InferenceMode {
    fn drop(&mut self) {
        // SAFETY: made by `begin` on this thread (the type is not Send) and ended once.
        unsafe { gristmill_inference_end(self.guard) }
    }
}

/// Sets how many threads one operation may use, for the whole process.
pub(crate) fn set_threads(threads: usize) -> Result<(), Error> {
    // SAFETY: plain numbers.
    check(unsafe { gristmill_set_threads(threads.try_into().unwrap_or(c_int::MAX)) })
}

/// A tensor over `bytes` bytes of a map from `offset`, which it keeps mapped as long as it lives. It must only be read:
/// the map is not writable. The file must not be cut short meanwhile, as for any map.
pub(crate) fn tensor_over(
    map: &Arc<Mmap>,
    offset: usize,
    bytes: usize,
    shape: &[i64],
    kind: Kind,
) -> Result<Tensor, Error> {
    let numbers = shape.iter().product::<i64>() as usize;
    assert_eq!(bytes, numbers * kind.elt_size_in_bytes(), "the header was checked against its own shapes");
    let data = &map[offset..offset + bytes];
    // The numbers of at::ScalarType, which tch keeps to itself.
    let scalar_type = match kind {
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::BFloat16 => 15,
        other => return Err(Error::Torch(format!("weights of type {other:?} are not mapped"))),
    };
    let owner = Arc::into_raw(Arc::clone(map)).cast_mut().cast();
    let mut out = ptr::null_mut();
    // SAFETY: `data` lies inside the map and holds exactly the tensor's numbers; the shim releases `owner` exactly once,
    // on failure too, and not before the last tensor over the data is gone.
    check(unsafe {
        let data = data.as_ptr().cast_mut().cast();
        gristmill_tensor_over(data, shape.as_ptr(), shape.len() as i64, scalar_type, owner, release_map, &mut out)
    })?;
    // SAFETY: on success the shim gives away a new tensor.
    Ok(unsafe { Tensor::from_ptr(out) })
}

unsafe extern "C" fn release_map(owner: *mut c_void) {
    // SAFETY: `owner` came from `Arc::into_raw` in `tensor_over` and is released once.
    drop(unsafe { Arc::from_raw(owner.cast::<Mmap>()) });
}

/// Causal attention within each packed sequence, scaled by 1 / sqrt(width): from q [tokens, heads, width] and k, v
/// [tokens, kv_heads, width] to [tokens, heads, width]. `lengths` add up to tokens; `cumulative` is their running sum as
/// int32 on the device.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    lengths: &[i64],
    cumulative: &Tensor,
) -> Result<Tensor, Error> {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut out = ptr::null_mut();
    // SAFETY: tch's tensors are `at::Tensor`s and outlive the call; `lengths` is read `len` times.
    check(unsafe {
        let (count, lengths) = (lengths.len() as i64, lengths.as_ptr());
        gristmill_attention(q.as_ptr(), k.as_ptr(), v.as_ptr(), cumulative.as_ptr(), lengths, count, longest, &mut out)
    })?;
    // SAFETY: on success the shim gives away a new tensor.
    Ok(unsafe { Tensor::from_ptr(out) })
}

const DONE: c_int = 0;
const OUT_OF_MEMORY: c_int = 2;

fn check(status: c_int) -> Result<(), Error> {
    if status == DONE {
        return Ok(());
    }
    // SAFETY: a string that ends with a zero byte and lives until this thread's next failure.
    let message = unsafe { CStr::from_ptr(gristmill_last_error()) }.to_string_lossy().into_owned();
    Err(if status == OUT_OF_MEMORY { Error::OutOfMemory(message) } else { Error::Torch(message) })
}

impl From<TchError> for Error {
    /// tch gives libtorch's message with a C++ backtrace behind it, and no type: what the allocators say is all that
    /// tells a lack of memory from other failures.
    fn from(error: TchError) -> Self {
        let TchError::Torch(text) = error else { return Error::Torch(error.to_string()) };
        let backtrace = ["\nException raised from", "\nframe #"].iter().filter_map(|sign| text.find(sign)).min();
        let message = text[..backtrace.unwrap_or(text.len())].trim().to_owned();
        let memory = ["DefaultCPUAllocator", "out of memory", "std::bad_alloc"];
        if memory.iter().any(|sign| message.contains(sign)) {
            Error::OutOfMemory(message)
        } else {
            Error::Torch(message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_memory_is_told_apart_and_no_backtrace_is_shown() {
        let _inference = InferenceMode::begin().expect("libtorch is there");
        let error = Tensor::f_zeros([1 << 45], (Kind::Float, tch::Device::Cpu)).map_err(Error::from);
        let Err(Error::OutOfMemory(message)) = error else { panic!("128 TiB were allocated: {error:?}") };
        assert!(message.contains("allocate memory") && !message.contains("frame #"), "{message}");
    }

    #[test]
    fn an_exception_in_the_shim_is_one_line_of_text() {
        let a = |n| Tensor::f_zeros([4, n, 8], (Kind::Float, tch::Device::Cpu)).expect("small");
        let cumulative = Tensor::f_from_slice(&[0i32, 9]).expect("small");
        let Err(Error::Torch(message)) = attention(&a(2), &a(2), &a(2), &[9], &cumulative) else {
            panic!("9 of 4 tokens")
        };
        assert!(!message.contains("frame #") && message.contains("exceeds dimension size"), "{message}");
        assert!(matches!(set_threads(0), Err(Error::Torch(_))));
    }
}
