// The device `pretend`: memory and random numbers of its own, and the CPU's kernels on copies.
//
// An operation on tensors of the device and of the CPU fails as on a GPU: 0-dimensional tensors
// and indices may be on the CPU, all else may not. Written with torch's interface for devices of
// other vendors, PrivateUse1.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "pretend_graphs.h"

namespace {

using at::Tensor;
using c10::IntArrayRef;
using c10::SymIntArrayRef;

using pretend::Graph;
using pretend::on_cpu;
using pretend::TYPE;

const c10::Device DEVICE(TYPE, 0);
const c10::DispatchKeySet KEY(c10::DispatchKey::PrivateUse1);

// ---- waits of the CPU for the device, by the operation that waits ----

std::map<std::string, int64_t> waits;
int64_t starts = 0;  // kernels, and replays of graphs, that the CPU has started
thread_local bool computing = false;

struct Computing {  // copies of a kernel are no waits
  const bool before = std::exchange(computing, true);
  ~Computing() { computing = before; }
};

void wait(const std::string& name) {
  Graph::refuse_in_recording("the CPU waits for the device: " + name);
  ++waits[name];
}

const std::set<std::string> READS_VALUES = {"aten::equal", "aten::is_nonzero", "aten::masked_select",
                                            "aten::nonzero", "aten::unique_dim", "aten::_unique2"};

// ---- memory, streams and generators ----

struct Memory final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t size) override {
    void* place = size ? aligned_alloc(64, (size + 63) / 64 * 64) : nullptr;
    TORCH_CHECK(place || !size, "out of memory: ", size, " bytes");
    if (size) memset(place, 0xFF, size);  // NaN: numbers that nobody wrote
    return {place, place, &free, DEVICE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free; }
  void copy_data(void* to, const void* from, size_t size) const override { memcpy(to, from, size); }
  bool initialized() override { return true; }
  void emptyCache(at::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override { return {}; }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {}
};
Memory memory;
REGISTER_ALLOCATOR(TYPE, &memory)

struct HostMemory final : at::HostAllocator {
  c10::DataPtr allocate(size_t size) override { return at::getCPUAllocator()->allocate(size); }
  c10::DeleterFnPtr raw_deleter() const override { return at::getCPUAllocator()->raw_deleter(); }
  void copy_data(void* to, const void* from, size_t size) const override { memcpy(to, from, size); }
  bool record_event(void*, void*, c10::Stream) override { return true; }
  void empty_cache() override {}
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
};
HostMemory host_memory;
REGISTER_HOST_ALLOCATOR(TYPE, &host_memory)

struct Guard final : c10::impl::NoOpDeviceGuardImpl<TYPE> {
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeDevice(c10::DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct PretendGenerator final : at::CPUGeneratorImpl {
  PretendGenerator() {
    device_ = DEVICE;
    key_set_ = KEY;
  }
};

at::Generator& default_generator() {
  static at::Generator generator = at::make_generator<PretendGenerator>();
  return generator;
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  at::Device getDeviceFromPtr(void*) const override { return DEVICE; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return default_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<PretendGenerator>();
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const override {
    if (storage.nbytes()) Graph::refuse_in_recording("memory grows");
    auto larger = memory.allocate(size);
    memcpy(larger.get(), storage.data(), std::min(size, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(larger));
    storage.unsafeGetStorageImpl()->set_nbytes(size);
  }
};

// ---- tensors: creation, views, copies ----

Tensor owned(Tensor x) {
  if (Graph::recording) Graph::recording->own(x);
  return x;
}

Tensor empty(IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
             std::optional<c10::Device>, std::optional<bool>,
             std::optional<c10::MemoryFormat> format) {
  auto type = dtype.value_or(at::get_default_dtype_as_scalartype());
  return owned(at::detail::empty_generic(size, &memory, KEY, type, format));
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<c10::ScalarType> dtype,
                     std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool>) {
  auto type = dtype.value_or(at::get_default_dtype_as_scalartype());
  return owned(at::detail::empty_strided_generic(size, stride, &memory, KEY, type));
}

Tensor as_strided(const Tensor& self, SymIntArrayRef size, SymIntArrayRef stride,
                  std::optional<c10::SymInt> offset) {
  auto start = offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size),
                                           C10_AS_INTARRAYREF_SLOW(stride), start);
}

Tensor view(const Tensor& self, SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

Tensor reshape_alias(const Tensor& self, SymIntArrayRef size, SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size),
                                    C10_AS_INTARRAYREF_SLOW(stride));
}

const Tensor& resize_(const Tensor& self, SymIntArrayRef size, std::optional<c10::MemoryFormat>) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(size));
  size_t bytes = (impl->storage_offset() + impl->numel()) * impl->itemsize();
  if (self.storage().nbytes() < bytes) Hooks().resizePrivateUse1Bytes(self.storage(), bytes);
  return self;
}

Tensor& set_(Tensor& self, at::Storage storage, c10::SymInt offset, SymIntArrayRef size,
             SymIntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  return self;
}

Tensor& set_tensor_(Tensor& self, const Tensor& source) {
  return set_(self, source.storage(), source.storage_offset(), source.sym_sizes(),
              source.sym_strides());
}

Tensor& set_storage_(Tensor& self, at::Storage storage) {
  std::vector<c10::SymInt> size{static_cast<int64_t>(storage.nbytes() / self.itemsize())}, one{1};
  return set_(self, std::move(storage), 0, size, one);
}

Tensor copy_from(const Tensor& self, const Tensor& to, bool) {
  at::AutoDispatchBelowADInplaceOrView no_gradient;
  // a copy in either direction waits: the memory of the CPU is not pinned
  if (!computing && to.numel() && self.device() != to.device())
    wait(to.is_cpu() ? "to the CPU" : "to the device");
  starts += !computing;
  if (!computing && Graph::recording) Graph::recording->add_copy(to, self);
  on_cpu(to).copy_(on_cpu(self));
  return to;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& to) {
  if (self.sizes() != to.sizes()) to.resize_(self.sizes());
  return copy_from(self, to, false);
}

at::Scalar local_scalar_dense(const Tensor& self) {
  wait("item");
  return on_cpu(self).item();
}

// ---- all other operations ----

void check_devices(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  const auto& name = op.schema().name();
  // a[index] and a[index] = b take indices of the CPU
  const bool has_indices = name == "aten::index" || name == "aten::_index_put_impl_" ||
      name == "aten::index_put_" || name == "aten::index_put";
  bool has_mask = false;
  auto check = [&](const Tensor& x) {
    TORCH_CHECK(!x.defined() || x.dim() == 0 || x.device().type() == TYPE,
                "Expected all tensors to be on the same device, but found at least two devices, ",
                DEVICE, " and ", x.device(), "! (", name, " of ", x.sizes(), ")");
  };
  for (const auto& value : torch::jit::last(stack, op.schema().arguments().size())) {
    if (value.isTensor()) check(value.toTensor());
    if (value.isTensorList())
      for (const Tensor& x : value.toTensorVector()) check(x);
    if (!value.isOptionalTensorList()) continue;
    for (const std::optional<Tensor>& x : value.toOptionalTensorVector()) {
      if (!has_indices) check(x.value_or(Tensor()));
      has_mask |= x && x->defined() && x->scalar_type() == at::kBool;
    }
  }
  // a[mask] has searched the mask by nonzero, and a[mask] = 0 is one kernel
  const bool searches = has_mask && name.find("index_put") != std::string::npos &&
      torch::jit::peek(stack, 2, op.schema().arguments().size()).toTensor().numel() != 1;
  if (searches || READS_VALUES.count(name)) wait(name);
}

void on_copies(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  check_devices(op, *stack);
  const auto& arguments = op.schema().arguments();
  at::Generator own, drawn;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].name() != "generator") continue;
    Graph::refuse_in_recording("random numbers");
    auto& value = torch::jit::peek(stack, i, arguments.size());
    own = value.isGenerator() ? value.toGenerator() : default_generator();
    TORCH_CHECK(own.device() == DEVICE, "Expected a generator of ", DEVICE, " but found ", own.device());
    drawn = at::detail::createCPUGenerator();
    drawn.set_state(own.get_state());
    value = drawn;
  }
  ++starts;
  std::optional<pretend::Kernel> kernel;
  if (Graph::recording) kernel = Graph::recording->kernel(op, *stack);
  {
    Computing now;
    at::native::cpu_fallback(op, stack);
  }
  if (kernel) Graph::recording->add(std::move(*kernel), *stack);
  if (own.defined()) own.set_state(drawn.get_state());
}

// ---- what the CPU has no kernel for: a cell of a GRU in one kernel, a histogram of integers ----

std::tuple<Tensor, Tensor> gru_cell(const Tensor& input, const Tensor& hidden, const Tensor& state,
                                    const std::optional<Tensor>& input_bias,
                                    const std::optional<Tensor>& hidden_bias) {
  auto with = [](const Tensor& gates, const std::optional<Tensor>& bias) {
    return (bias && bias->defined() ? gates + *bias : gates).chunk(3, 1);
  };
  auto x = with(input, input_bias), h = with(hidden, hidden_bias);
  auto reset = (x[0] + h[0]).sigmoid(), update = (x[1] + h[1]).sigmoid();
  auto fresh = (x[2] + reset * h[2]).tanh();
  return {fresh + update * (state - fresh), at::cat({reset, update, fresh, state, h[2]}, 1)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gru_cell_backward(
    const Tensor& gradient, const Tensor& workspace, bool has_bias) {
  auto saved = workspace.chunk(5, 1);
  auto reset = saved[0], update = saved[1], fresh = saved[2], state = saved[3], hidden = saved[4];
  auto to_fresh = gradient * (1 - update) * (1 - fresh * fresh);
  auto to_update = gradient * (state - fresh) * update * (1 - update);
  auto to_reset = to_fresh * hidden * reset * (1 - reset);
  auto to_input = at::cat({to_reset, to_update, to_fresh}, 1);
  auto to_hidden = at::cat({to_reset, to_update, to_fresh * reset}, 1);
  auto bias = [&](const Tensor& gates) { return has_bias ? gates.sum(0) : Tensor(); };
  return {to_input, to_hidden, gradient * update, bias(to_input), bias(to_hidden)};
}

// a GPU counts integers too
Tensor histc(const Tensor& x, int64_t bins, const at::Scalar& low, const at::Scalar& high) {
  Graph::refuse_in_recording("histc");
  Computing now;
  return at::histc(x.cpu().to(at::kDouble), bins, low, high).to(x.options());
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("unfold", at::native::unfold);
  m.impl("resize_", resize_);
  m.impl("set_.source_Storage_storage_offset", set_);
  m.impl("set_.source_Storage", set_storage_);
  m.impl("set_.source_Tensor", set_tensor_);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar_dense);
  m.impl("histc", histc);
  m.impl("_thnn_fused_gru_cell", gru_cell);
  m.impl("_thnn_fused_gru_cell_backward", gru_cell_backward);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_copies>());
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  m.def("manual_seed", [](uint64_t seed) { default_generator().set_current_seed(seed); });
  m.def("get_rng_state", [] { return default_generator().get_state(); });
  m.def("set_rng_state", [](const Tensor& state) { default_generator().set_state(state); });
  m.def("starts", [] { return std::exchange(starts, 0) + std::exchange(Graph::replays, 0); });
  m.def("waits", [] { return std::exchange(waits, {}); });
}
