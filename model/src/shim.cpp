// What tch does not offer: inference mode, tensors that own a share of a file's map, the number of threads without a
// panic, and attention over packed sequences. Plain C functions; no exception leaves this file. Only ATen's dispatcher
// is used, so nothing here links against CUDA.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <exception>
#include <new>
#include <string>

namespace {

enum Status : int { kDone = 0, kFailed = 1, kOutOfMemory = 2 };

thread_local std::string last_error;

// Tells a lack of memory, after which a smaller batch may succeed, from every other failure. The processor's allocator
// throws a plain c10::Error, which only its message gives away.
int failure(const std::string& message, bool out_of_memory) {
  last_error = message;
  return out_of_memory || message.find("DefaultCPUAllocator") != std::string::npos ? kOutOfMemory : kFailed;
}

template <typename Body>
int guarded(Body&& body) noexcept {
  try {
    body();
    return kDone;
  } catch (const c10::OutOfMemoryError& e) {
    return failure(e.what_without_backtrace(), true);
  } catch (const c10::Error& e) {
    return failure(e.what_without_backtrace(), false);
  } catch (const std::bad_alloc& e) {
    return failure(e.what(), true);
  } catch (const std::exception& e) {
    return failure(e.what(), false);
  } catch (...) {
    return failure("an exception of an unknown type", false);
  }
}

// q: [tokens, heads, width]; k, v: [tokens, kv_heads, width]. One call per sequence: the kernel groups the heads itself,
// and a sequence sees no other's tokens because it is given none.
at::Tensor attention_on_cpu(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const int64_t* lengths,
                            int64_t count) {
  auto packed = at::empty_like(q, at::MemoryFormat::Contiguous);  // [tokens, heads, width]
  int64_t start = 0;
  for (int64_t i = 0; i < count; ++i) {
    auto heads_first = [&](const at::Tensor& x) {
      return x.narrow(0, start, lengths[i]).transpose(0, 1).unsqueeze(0);  // [1, heads, length, width]
    };
    auto attended = std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(
        heads_first(q), heads_first(k), heads_first(v), /*dropout_p=*/0.0, /*is_causal=*/true));
    packed.narrow(0, start, lengths[i]).copy_(attended.squeeze(0).transpose(0, 1));
    start += lengths[i];
  }
  return packed;
}

}  // namespace

#define GRISTMILL_EXPORT extern "C" __attribute__((visibility("default")))

// The message of this thread's last failure; valid until its next one.
GRISTMILL_EXPORT const char* gristmill_last_error() { return last_error.c_str(); }

// Gradients and version counters are off in this thread until the matching end.
GRISTMILL_EXPORT int gristmill_inference_begin(void** guard) {
  return guarded([&] { *guard = new c10::InferenceMode(); });
}

GRISTMILL_EXPORT void gristmill_inference_end(void* guard) { delete static_cast<c10::InferenceMode*>(guard); }

GRISTMILL_EXPORT int gristmill_set_threads(int threads) {
  return guarded([&] { at::set_num_threads(threads); });
}

// A tensor over memory that it does not own; `release(owner)` is called when the last tensor over it is gone, and also
// when this call fails.
GRISTMILL_EXPORT int gristmill_tensor_over(void* data, const int64_t* shape, int64_t dims, int kind, void* owner,
                                           void (*release)(void*), at::Tensor** out) {
  bool handed_over = false;
  int status = guarded([&] {
    auto options = at::TensorOptions().device(at::kCPU).dtype(static_cast<at::ScalarType>(kind));
    auto tensor = at::from_blob(
        data, at::IntArrayRef(shape, dims), [owner, release](void*) { release(owner); }, options);
    handed_over = true;
    *out = new at::Tensor(std::move(tensor));
  });
  if (!handed_over) release(owner);
  return status;
}

// Causal attention within each packed sequence. q: [tokens, heads, width]; k, v: [tokens, kv_heads, width]; heads is a
// multiple of kv_heads. lengths: `count` on the host, adding up to tokens; cumulative: int32 [count + 1] on the tensors'
// device, read by CUDA only. out: [tokens, heads, width]. The scale is 1 / sqrt(width).
GRISTMILL_EXPORT int gristmill_attention(const at::Tensor* q, const at::Tensor* k, const at::Tensor* v,
                                         const at::Tensor* cumulative, const int64_t* lengths, int64_t count,
                                         int64_t longest, at::Tensor** out) {
  return guarded([&] {
    if (q->is_cuda()) {
      auto attended = std::get<0>(at::_flash_attention_forward(
          *q, *k, *v, *cumulative, *cumulative, longest, longest, /*dropout_p=*/0.0, /*is_causal=*/true,
          /*return_debug_mask=*/false));
      *out = new at::Tensor(std::move(attended));
    } else {
      *out = new at::Tensor(attention_on_cpu(*q, *k, *v, lengths, count));
    }
  });
}
