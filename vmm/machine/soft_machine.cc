#include "vmm/machine/soft_machine.h"

#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>

#include "absl/memory/memory.h"
#include "base/check.h"
#include "workloads/aux_area.h"
#include "workloads/run.h"

namespace quire {
namespace {

// How a workload reaches a guest's memory: see workloads/run.h.
class SoftAccess {
 public:
  SoftAccess(Machine& machine, bool freezes, std::function<void()> rest)
      : machine_(machine), freezes_(freezes), rest_(std::move(rest)) {}

  void AdviseHuge(uint64_t page, uint64_t count) {
    machine_.AdviseHuge(GfnRange(Gfn(page), PageCount(count)), /*huge=*/true);
  }
  // What is refused is counted, and the guest goes on.
  void Wire(uint64_t page, uint64_t count) { (void)machine_.Wire(GfnRange(Gfn(page), PageCount(count))); }
  bool PassFreezePoint() { return !freezes_; }
  void Rest() { rest_(); }

 private:
  Machine& machine_;
  const bool freezes_;
  const std::function<void()> rest_;
};

class EptAccess : public SoftAccess {
 public:
  EptAccess(Machine& machine, bool freezes, std::function<void()> rest, EptVcpu& vcpu)
      : SoftAccess(machine, freezes, std::move(rest)), vcpu_(vcpu) {}

  template <class Use>
  bool WithPage(uint64_t page, bool write, Use use) {
    status_ = vcpu_.WithPage(Gfn(page), write ? Access::kWrite : Access::kRead,
                             [&use](std::byte* bytes) { use(reinterpret_cast<uint64_t*>(bytes)); });
    return status_.ok();
  }
  const absl::Status& status() const { return status_; }

 private:
  EptVcpu& vcpu_;
  absl::Status status_;
};

class DirectAccess : public SoftAccess {
 public:
  DirectAccess(Machine& machine, std::function<void()> rest)
      : SoftAccess(machine, /*freezes=*/false, std::move(rest)), memory_(machine.anonymous().data()) {}

  template <class Use>
  bool WithPage(uint64_t page, bool, Use use) {
    use(reinterpret_cast<uint64_t*>(memory_ + page * kPageSize));
    return true;
  }

 private:
  std::byte* const memory_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SoftMachine>> SoftMachine::Create(const SoftMachineOptions& options, Pool* pool,
                                                                 GuestMemory* memory) {
  auto machine = absl::WrapUnique(new SoftMachine(options, memory));
  if (absl::Status status = machine->Assemble(options, pool, memory); !status.ok()) return status;
  return machine;
}

SoftMachine::~SoftMachine() = default;

absl::Status SoftMachine::Assemble(const SoftMachineOptions& options, Pool* pool, GuestMemory* memory) {
  if (memory != nullptr) {
    ept_ = std::make_unique<Ept>(*memory);
    for (int i = 0; i < options.vcpus; ++i) vcpus_.push_back(std::make_unique<EptVcpu>(*ept_));
  } else if (absl::Status status = MapAnonymous(options.memory, options.anonymous_blocks); !status.ok()) {
    return status;
  }

  absl::StatusOr<WiredRegion> boot_region = WiredRegion::Allocate(pool, ByteCount::Bytes(sizeof(quire_boot_info)));
  if (!boot_region.ok()) return boot_region.status();
  boot_ = *std::move(boot_region);
  const uint64_t* const file_pages = options.work->file == nullptr ? nullptr : options.work->file->words();
  const AuxParameters parameters = options.work->ParametersFor(options.seed, file_pages, options.memory, options.vcpus);
  absl::StatusOr<WiredRegion> scratch = WiredRegion::Allocate(pool, AuxScratchSize(parameters));
  if (!scratch.ok()) return scratch.status();
  scratch_ = *std::move(scratch);
  if (options.clone_of == nullptr) {
    LoadFresh(options, parameters);
  } else {
    LoadClone(*options.clone_of, options.clone);
  }
  return absl::OkStatus();
}

void SoftMachine::LoadFresh(const SoftMachineOptions& options, const AuxParameters& parameters) {
  boot().magic = QUIRE_ABI_MAGIC;
  boot().version = QUIRE_ABI_VERSION;
  boot().vcpus = static_cast<uint32_t>(options.vcpus);
  boot().memory_bytes = options.memory.in_bytes();
  boot().seed = options.seed;
  FillAuxArea(parameters, reinterpret_cast<uint64_t>(scratch_.bytes().data()), scratch_.bytes());
}

// The tables lie where this machine's scratch does.
void SoftMachine::LoadClone(const SoftMachine& frozen, uint64_t clone) {
  std::memcpy(boot_.bytes().data(), frozen.boot_.bytes().data(), boot_.bytes().size());
  std::memcpy(scratch_.bytes().data(), frozen.scratch_.bytes().data(), scratch_.bytes().size());
  boot().clone = clone;
  const auto moved = [&](auto*& table) {
    const auto offset = reinterpret_cast<std::byte*>(table) - frozen.scratch_.bytes().data();
    table = reinterpret_cast<std::remove_reference_t<decltype(table)>>(scratch_.bytes().data() + offset);
  };
  moved(aux().latency);
  moved(aux().versions);
}

void SoftMachine::BecomeTemplate() {
  QUIRE_CHECK(at_freeze_point());
  vcpus_.clear();
  ept_.reset();
}

void SoftMachine::RequestStop() { __atomic_store_n(&boot().stop, 1, __ATOMIC_RELAXED); }

absl::Status SoftMachine::RunVcpu(int vcpu) {
  const uint32_t number = static_cast<uint32_t>(vcpu);
  Rest owed;
  const auto rest = [this, &owed] { RestVcpu(owed); };
  if (ept_ == nullptr) {
    DirectAccess memory(*this, rest);
    RunWorkload(aux(), boot(), number, memory);
    return absl::OkStatus();
  }
  EptAccess memory(*this, freezes_, rest, *vcpus_[number]);
  if (RunWorkload(aux(), boot(), number, memory, from_) == RunResult::kFrozen) NoteFrozen();
  return memory.status();
}

void SoftMachine::RestVcpu(Rest& rest) const {
  TakeRest(rest, [this] { return killed() || __atomic_load_n(&boot().stop, __ATOMIC_RELAXED) != 0; });
}

quire_progress SoftMachine::ReadProgressOf(int vcpu) const {
  // Written by the vCPU's thread meanwhile.
  const quire_progress& p = boot().progress[vcpu];
  const auto load = [](const uint64_t& field) { return __atomic_load_n(&field, __ATOMIC_ACQUIRE); };
  quire_progress copy;
  copy.operations = load(p.operations);
  copy.verified_pages = load(p.verified_pages);
  copy.mismatched_pages = load(p.mismatched_pages);
  copy.first_bad_page = load(p.first_bad_page);
  copy.first_bad_word = load(p.first_bad_word);
  copy.first_bad_value = load(p.first_bad_value);
  copy.first_bad_wanted = load(p.first_bad_wanted);
  copy.phase = load(p.phase);
  return copy;
}

}  // namespace quire
