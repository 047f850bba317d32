#include "vmm/machine/kvm_machine.h"

#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "vmm/machine/huge_advice.h"
#include "vmm/machine/wire_request.h"

namespace quire {
namespace {

template <class... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
template <class... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

}  // namespace

absl::StatusOr<std::unique_ptr<KvmMachine>> KvmMachine::Create(const KvmSystem& system,
                                                               const KvmMachineOptions& options, Pool* pool,
                                                               GuestMemory* memory) {
  auto machine = absl::WrapUnique(new KvmMachine(options, memory));
  absl::Status mapped = machine->MapMemory(options.memory, options.anonymous_blocks, options.window, pool);
  if (!mapped.ok()) return mapped;
  if (absl::Status status = machine->Assemble(system, options, pool); !status.ok()) return status;
  return machine;
}

KvmMachine::KvmMachine(const KvmMachineOptions& options, GuestMemory* memory)
    : VmMachine(options.name, options.vcpus, memory),
      console_(options.console),
      freezes_(options.freezes),
      has_work_(options.work != nullptr),
      frozen_(static_cast<size_t>(options.vcpus)),
      rests_(static_cast<size_t>(options.vcpus)) {}

// The VM goes before what its memslots point at.
KvmMachine::~KvmMachine() {
  vcpus_.clear();
  DropVm();
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
  if (absl::Status status = CreateVm(system); !status.ok()) return status;
  if (absl::Status status = AddMemslots(options); !status.ok()) return status;
  for (int i = 0; i < options.vcpus; ++i) {
    absl::StatusOr<std::unique_ptr<KvmVcpu>> vcpu =
        options.clone_of == nullptr
            ? KvmVcpu::Create(vm(), *wired_, i)
            : KvmVcpu::Create(vm(), *wired_, i, options.clone_of->frozen_[static_cast<size_t>(i)]);
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
  DropVm();
  DropWindow();
}

absl::Status KvmMachine::AddMemslots(const KvmMachineOptions& options) {
  const WiredLayout& layout = wired_->layout();
  absl::Status status = vm().SetMemslot(Memslot::kMemory, Gpa(0), options.memory, hva(), Protection::kReadWrite);
  status.Update(vm().SetMemslot(Memslot::kWired, layout.gpa, layout.size, Hva(wired_region_.bytes().data()),
                                Protection::kReadWrite));
  if (layout.aux.size() > 0) {
    status.Update(vm().SetMemslot(AuxMemslot(0), layout.aux[0].gpa, layout.aux[0].size, Hva(scratch_.bytes().data()),
                                  Protection::kReadWrite));
  }
  if (layout.aux.size() > 1) {
    status.Update(vm().SetMemslot(AuxMemslot(1), layout.aux[1].gpa, layout.aux[1].size, options.work->file->address(),
                                  Protection::kReadOnly));
  }
  return status;
}

absl::Status KvmMachine::RunVcpu(int vcpu) {
  KvmVcpu& cpu = *vcpus_[static_cast<size_t>(vcpu)];
  while (!killed()) {
    const VcpuExit exit = RunPastRemappings(cpu);
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
          [&](const MemoryFault&) { return Died(vcpu.Die(std::string(kCannotTranslate))); },
          [&](const AdviceWrite& advice) { return TakeAdvice(vcpu, advice.value); },
          [&](const WireWrite& request) { return TakeWireRequest(vcpu, request.value); },
          [&](const FreezePoint&) { return StopAtFreezePoint(vcpu, number, done); },
          [](const Death& death) { return Died(death); },
          [&](const RestPoint&) {
            TakeRest(rests_[static_cast<size_t>(number)], [this] { return killed() || wired_->stop_requested(); });
            return absl::OkStatus();
          },
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

void KvmMachine::AddLatency(OperationLatency& sum) const {
  if (has_work_) AddLatencyOf(scratch_.bytes(), vcpus(), sum);
}

void KvmMachine::KickVcpus() {
  for (const std::unique_ptr<KvmVcpu>& vcpu : vcpus_) vcpu->Kick();
}

}  // namespace quire
