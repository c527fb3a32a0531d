// Graphs of the device `pretend`: kernels that are recorded once, and run again on the same memory.
//
// As on a GPU, a recording computes nothing: memory outside is as before, memory of the recording
// is NaN until a replay. Waits and random numbers are refused. So is a replay that reads memory
// freed since. Graphs of one pool share memory: what was free when a graph was recorded, or freed
// by then, is overwritten by its replay.

#pragma once

#include <ATen/ATen.h>
#include <ATen/core/GraphImplInterface.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace pretend {

using at::Tensor;
using Weak = c10::weak_intrusive_ptr<c10::StorageImpl>;

constexpr auto TYPE = c10::DeviceType::PrivateUse1;

// the same memory as a tensor of the CPU, which does not keep the memory
inline Tensor on_cpu(const Tensor& x) {
  if (!x.defined() || x.is_cpu()) return x;
  c10::DataPtr place(const_cast<void*>(x.storage().data()), at::kCPU);
  auto size = c10::Storage::use_byte_size_t();
  c10::Storage storage(size, x.storage().nbytes(), std::move(place), nullptr, false);
  auto out = at::empty({0}, x.options().device(at::kCPU));
  return out.set_(storage, x.storage_offset(), x.sizes(), x.strides());
}

inline std::vector<Tensor> tensors_of(const c10::IValue& value) {
  if (value.isTensor()) return {value.toTensor()};
  if (value.isTensorList()) return value.toTensorVector();
  std::vector<Tensor> tensors;
  if (value.isOptionalTensorList())
    for (const std::optional<Tensor>& x : value.toOptionalTensorVector())
      if (x) tensors.push_back(*x);
  return tensors;
}

struct Kernel {
  c10::OperatorHandle op;
  torch::jit::Stack arguments;  // tensors by `on_cpu`, after it has computed
  std::vector<Tensor> results;  // by `on_cpu`; undefined for a result that is in its place
};

class Graph final : public at::GraphImplInterface {
 public:
  static inline Graph* recording = nullptr;
  static inline int64_t replays = 0;

  static void refuse_in_recording(const std::string& what) {
    TORCH_CHECK(!recording, "a graph is recorded: operation not permitted: ", what);
  }

  explicit Graph(at::GraphImplArgs) {}
  ~Graph() override { reset(); }

  void capture_begin(at::MempoolId_t pool, at::GraphCaptureMode) override {
    TORCH_CHECK(!recording, "a graph is recorded already");
    static uint64_t num_pools = 0;
    pool_ = pool.first || pool.second ? pool : at::MempoolId_t{0, ++num_pools};
    recording = this;
    overwritten_ = free_memory();
  }

  void capture_end() override {
    recording = nullptr;
    for (auto& [_, outside] : outside_)
      memcpy(outside.place, outside.before.data(), outside.before.size());
    std::vector<Weak> own;
    for (auto& [_, storage] : own_) {
      memset(storage.mutable_data(), 0xFF, storage.nbytes());
      own.push_back(storage.getWeakStorageImpl());
    }
    overwritten_ = free_memory();  // and what was freed meanwhile
    auto& all = memory_of_pools()[pool_];
    all.insert(all.end(), own.begin(), own.end());
  }

  void replay() override {
    at::AutoDispatchBelowADInplaceOrView no_gradient;
    ++replays;
    for (auto& [_, outside] : outside_)
      TORCH_CHECK(!outside.storage.expired(), "a replay reads memory that has been freed");
    for (const Kernel& kernel : kernels_) {
      auto stack = kernel.arguments;
      kernel.op.callBoxed(&stack);
      auto to = kernel.results.begin();
      for (const auto& value : stack)
        for (const Tensor& x : tensors_of(value))
          if (const Tensor& place = *to++; place.defined()) place.copy_(x);
    }
    for (const Weak& each : overwritten_)
      if (auto storage = each.lock()) memset(storage->mutable_data(), 0xFF, storage->nbytes());
  }

  void instantiate() override {}
  void reset() override {
    kernels_.clear();
    outside_.clear();
    own_.clear();
    overwritten_.clear();
  }
  at::MempoolId_t pool() const override { return pool_; }
  void enable_debug_mode() override {}
  void debug_dump(const std::string&) override {}

  // memory that is allocated while the graph is recorded
  void own(const Tensor& x) { own_.emplace(x.storage().unsafeGetStorageImpl(), x.storage()); }

  // the kernel of an operation, before it computes
  Kernel kernel(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
    Kernel kernel{op, {}, {}};
    for (const auto& value : torch::jit::last(stack, op.schema().arguments().size())) {
      for (const Tensor& x : tensors_of(value)) know(x);
      kernel.arguments.push_back(value);
    }
    return kernel;
  }

  // the same after it has computed, with its results on the stack
  void add(Kernel kernel, const torch::jit::Stack& stack) {
    for (auto& value : kernel.arguments) value = argument(value);  // a place may have grown
    std::vector<void*> places;
    for (const auto& value : kernel.arguments)
      for (const Tensor& x : tensors_of(value))
        if (x.defined()) places.push_back(x.storage().mutable_data());
    for (const auto& value : torch::jit::last(stack, kernel.op.schema().returns().size()))
      for (const Tensor& x : tensors_of(value)) {
        bool is_new = x.defined() && !x.is_cpu();
        for (void* place : places) is_new = is_new && place != x.storage().data();
        kernel.results.push_back(is_new ? on_cpu(x) : Tensor());
      }
    kernels_.push_back(std::move(kernel));
  }

  void add_copy(const Tensor& to, const Tensor& from) {
    static const auto copy = c10::Dispatcher::singleton().findSchemaOrThrow("aten::copy_", "");
    add(kernel(copy, {to, from, false}), {to});
  }

 private:
  struct Outside {
    Weak storage;
    void* place;
    std::vector<char> before;
  };

  static std::map<at::MempoolId_t, std::vector<Weak>>& memory_of_pools() {
    static std::map<at::MempoolId_t, std::vector<Weak>> memory;
    return memory;
  }

  // memory of earlier graphs of the pool that nobody but these graphs holds
  std::vector<Weak> free_memory() const {
    std::vector<Weak> free;
    for (const Weak& each : memory_of_pools()[pool_])
      if (auto storage = each.lock(); storage && storage.use_count() == 2) free.push_back(each);
    return free;
  }

  void know(const Tensor& x) {
    if (!x.defined() || x.is_cpu()) return;
    auto* storage = x.storage().unsafeGetStorageImpl();
    if (own_.count(storage) || outside_.count(storage)) return;
    auto* bytes = static_cast<char*>(storage->mutable_data());
    outside_.emplace(storage, Outside{x.storage().getWeakStorageImpl(), bytes,
                                      std::vector<char>(bytes, bytes + storage->nbytes())});
  }

  // numbers of the CPU become part of the kernel
  static Tensor tensor(const Tensor& x) { return x.defined() && x.is_cpu() ? x.clone() : on_cpu(x); }

  static c10::IValue argument(const c10::IValue& value) {
    if (value.isDevice()) return c10::Device(at::kCPU);
    if (value.isTensor()) return tensor(value.toTensor());
    if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& x : value.toTensorVector()) list.push_back(tensor(x));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const std::optional<Tensor>& x : value.toOptionalTensorVector())
        list.push_back(x ? std::optional<Tensor>(tensor(*x)) : std::nullopt);
      return list;
    }
    return value;
  }

  at::MempoolId_t pool_{0, 0};
  std::vector<Kernel> kernels_;
  std::map<c10::StorageImpl*, c10::Storage> own_;
  std::map<c10::StorageImpl*, Outside> outside_;
  std::vector<Weak> overwritten_;
};

}  // namespace pretend

namespace at {
REGISTER_GRAPH_IMPL(PRETEND, pretend::Graph)
}  // namespace at
