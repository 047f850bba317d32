#include "vmm/machine/kvm_machine.h"

#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "vmm/machine/huge_advice.h"
#include "vmm/machine/wire_request.h"

namespace quire {
namespace {

// How often, a millisecond apart, a vCPU may find a page of its memory momentarily impossible to translate.
constexpr int kMostMemoryFaults = 1000;

template <class... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
template <class... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

absl::Status Died(const Death& death) {
  return absl::AbortedError(absl::StrCat(death.sentence, "\n", death.registers));
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvmMachine>> KvmMachine::Create(const KvmSystem& system,
                                                               const KvmMachineOptions& options, Pool* pool,
                                                               GuestMemory* memory) {
  auto machine = absl::WrapUnique(new KvmMachine(options, memory));
  if (absl::Status status = machine->MapMemory(options, pool, memory); !status.ok()) return status;
  if (absl::Status status = machine->Assemble(system, options, pool); !status.ok()) return status;
  return machine;
}

KvmMachine::KvmMachine(const KvmMachineOptions& options, GuestMemory* memory)
    : Machine(options.name, options.vcpus, memory),
      console_(options.console),
      freezes_(options.freezes),
      frozen_(static_cast<size_t>(options.vcpus)) {}

KvmMachine::~KvmMachine() = default;

absl::Status KvmMachine::MapMemory(const KvmMachineOptions& options, Pool* pool, GuestMemory* memory) {
  if (memory != nullptr) {
    absl::StatusOr<std::unique_ptr<KvmWindow>> window =
        KvmWindow::Create(*memory, pool->file().fd(), memory->reservation(), options.window, memory->Views());
    if (!window.ok()) return window.status();
    window_ = *std::move(window);
    memory_ = window_->base();
    return absl::OkStatus();
  }
  absl::Status status = MapAnonymous(options.memory, options.anonymous_blocks);
  memory_ = anonymous().hva();
  return status;
}

absl::Status KvmMachine::Assemble(const KvmSystem& system, const KvmMachineOptions& options, Pool* pool) {
  const Work* const work = options.work;
  MachineShape shape{.image = *options.program,
                     .memory = options.memory,
                     .vcpus = options.vcpus,
                     .aux = {},
                     .physical_address_bits = system.physical_address_bits()};
  if (work != nullptr) {
    // Its size does not depend on where the guest sees the content.
    const ByteCount scratch = AuxScratchSize(work->ParametersFor(0, nullptr, options.memory, options.vcpus));
    shape.aux.push_back({.size = scratch, .protection = Protection::kReadWrite});
    if (work->file != nullptr) shape.aux.push_back({.size = work->file->size().bytes()});
  }
  absl::StatusOr<WiredLayout> layout = PlanWiredMemory(shape);
  if (!layout.ok()) return layout.status();
  absl::StatusOr<WiredRegion> region = WiredRegion::Allocate(pool, layout->size);
  if (!region.ok()) return region.status();
  wired_region_ = *std::move(region);
  wired_.emplace(*std::move(layout), wired_region_.bytes());
  LoadWired(options);
  if (work != nullptr) {
    absl::StatusOr<WiredRegion> scratch = WiredRegion::Allocate(pool, shape.aux[0].size);
    if (!scratch.ok()) return scratch.status();
    scratch_ = *std::move(scratch);
    LoadScratch(options);
  }
  absl::StatusOr<std::unique_ptr<KvmVm>> vm = KvmVm::Create(system);
  if (!vm.ok()) return vm.status();
  vm_ = *std::move(vm);
  if (absl::Status status = AddMemslots(options); !status.ok()) return status;
  for (int i = 0; i < options.vcpus; ++i) {
    absl::StatusOr<std::unique_ptr<KvmVcpu>> vcpu =
        options.clone_of == nullptr
            ? KvmVcpu::Create(*vm_, *wired_, i)
            : KvmVcpu::Create(*vm_, *wired_, i, options.clone_of->frozen_[static_cast<size_t>(i)]);
    if (!vcpu.ok()) return vcpu.status();
    vcpus_.push_back(*std::move(vcpu));
  }
  return absl::OkStatus();
}

void KvmMachine::LoadWired(const KvmMachineOptions& options) {
  if (options.clone_of == nullptr) return wired_->Load(*options.program, options.seed);
  wired_->LoadClone(options.clone_of->wired_region_.bytes(), options.clone);
}

void KvmMachine::LoadScratch(const KvmMachineOptions& options) {
  if (options.clone_of != nullptr) {
    const absl::Span<const std::byte> theirs = options.clone_of->scratch_.bytes();
    std::memcpy(scratch_.bytes().data(), theirs.data(), theirs.size());
    return;
  }
  const std::vector<WiredLayout::Aux>& aux = wired_->layout().aux;
  const uint64_t* const pages =
      options.work->file == nullptr ? nullptr : reinterpret_cast<const uint64_t*>(aux[1].address.value());
  FillAuxArea(options.work->ParametersFor(options.seed, pages, options.memory, options.vcpus), aux[0].address.value(),
              scratch_.bytes());
}

void KvmMachine::BecomeTemplate() {
  QUIRE_CHECK(at_freeze_point());
  vcpus_.clear();
  vm_.reset();
  window_.reset();
}

absl::Status KvmMachine::AddMemslots(const KvmMachineOptions& options) {
  const WiredLayout& layout = wired_->layout();
  absl::Status status = vm_->SetMemslot(Memslot::kMemory, Gpa(0), options.memory, memory_, Protection::kReadWrite);
  status.Update(vm_->SetMemslot(Memslot::kWired, layout.gpa, layout.size, Hva(wired_region_.bytes().data()),
                                Protection::kReadWrite));
  if (layout.aux.size() > 0) {
    status.Update(vm_->SetMemslot(AuxMemslot(0), layout.aux[0].gpa, layout.aux[0].size, Hva(scratch_.bytes().data()),
                                  Protection::kReadWrite));
  }
  if (layout.aux.size() > 1) {
    status.Update(vm_->SetMemslot(AuxMemslot(1), layout.aux[1].gpa, layout.aux[1].size, options.work->file->address(),
                                  Protection::kReadOnly));
  }
  return status;
}

absl::Status KvmMachine::RunVcpu(int vcpu) {
  KvmVcpu& cpu = *vcpus_[static_cast<size_t>(vcpu)];
  int memory_faults = 0;
  while (!killed()) {
    const auto before = window_ != nullptr ? window_->remappings() : KvmWindow::RemapSequence{};
    const VcpuExit exit = cpu.Run();
    if (!std::holds_alternative<MemoryFault>(exit)) {
      memory_faults = 0;
    } else if (window_ != nullptr && window_->AwaitRemapping(before)) {
      continue;
    } else if (++memory_faults < kMostMemoryFaults) {
      absl::SleepFor(absl::Milliseconds(1));
      continue;
    }
    bool done = false;
    if (absl::Status status = Handle(cpu, vcpu, exit, done); !status.ok() || done) return status;
  }
  return absl::OkStatus();
}

absl::Status KvmMachine::Handle(KvmVcpu& vcpu, int number, const VcpuExit& exit, bool& done) {
  return std::visit(
      Overloaded{
          [&](const SerialOutput& output) {
            console_(output.bytes);
            return absl::OkStatus();
          },
          [&](const GuestExit& ended) {
            done = true;
            return ended.status == 0 ? absl::OkStatus()
                                     : absl::AbortedError(absl::StrCat("the program ended with status ", ended.status));
          },
          [&](const MemoryFault&) {
            return Died(vcpu.Die("KVM cannot translate an address of the guest's memory, again and again"));
          },
          [&](const AdviceWrite& advice) { return TakeAdvice(vcpu, advice.value); },
          [&](const WireWrite& request) { return TakeWireRequest(vcpu, request.value); },
          [&](const FreezePoint&) { return StopAtFreezePoint(vcpu, number, done); },
          [](const Death& death) { return Died(death); },
          // Nobody listens on other ports; an interruption is looked at by the loop.
          [](const PortWrite&) { return absl::OkStatus(); }, [](const Interrupted&) { return absl::OkStatus(); }},
      exit);
}

absl::Status KvmMachine::TakeAdvice(KvmVcpu& vcpu, uint32_t value) {
  const absl::StatusOr<HugeAdvice> advice = CheckHugeAdvice(value, wired_->ReadAdvisedPart(), wired_->layout().memory);
  if (!advice.ok()) return Died(vcpu.Die(std::string(advice.status().message())));
  AdviseHuge(advice->range, advice->huge);
  return absl::OkStatus();
}

absl::Status KvmMachine::TakeWireRequest(KvmVcpu& vcpu, uint32_t value) {
  const absl::StatusOr<WireRequest> request =
      CheckWireRequest(value, wired_->ReadPartToWire(), wired_->layout().memory);
  if (!request.ok()) return Died(vcpu.Die(std::string(request.status().message())));
  const absl::Status status = request->wire ? Wire(request->range) : Unwire(request->range);
  wired_->AnswerWireRequest(status.ok() ? QUIRE_WIRE_DONE : QUIRE_WIRE_REFUSED);
  return absl::OkStatus();
}

absl::Status KvmMachine::StopAtFreezePoint(KvmVcpu& vcpu, int number, bool& done) {
  if (!freezes_) return absl::OkStatus();
  absl::StatusOr<VcpuState> state = vcpu.Save();
  if (!state.ok()) return state.status();
  frozen_[static_cast<size_t>(number)] = *state;
  done = true;
  NoteFrozen();
  return absl::OkStatus();
}

void KvmMachine::KickVcpus() {
  for (const std::unique_ptr<KvmVcpu>& vcpu : vcpus_) vcpu->Kick();
}

uint64_t KvmMachine::KvmStatistic(absl::string_view name) const {
  if (vm_ == nullptr || vm_->stats() == nullptr) return 0;
  return vm_->stats()->Read(name).value_or(0);
}

}  // namespace quire
