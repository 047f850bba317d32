#include "vmm/machine/soft_machine.h"

#include <cstring>

#include "absl/memory/memory.h"
#include "base/check.h"
#include "workloads/aux_area.h"
#include "workloads/run.h"

namespace quire {
namespace {

// How a workload reaches a guest's memory: see workloads/run.h.
class SoftAccess {
 public:
  SoftAccess(Machine& machine, bool freezes) : machine_(machine), freezes_(freezes) {}

  void AdviseHuge(uint64_t page, uint64_t count) {
    machine_.AdviseHuge(GfnRange(Gfn(page), PageCount(count)), /*huge=*/true);
  }
  // What is refused is counted, and the guest goes on.
  void Wire(uint64_t page, uint64_t count) { (void)machine_.Wire(GfnRange(Gfn(page), PageCount(count))); }
  bool PassFreezePoint() { return !freezes_; }

 private:
  Machine& machine_;
  const bool freezes_;
};

class EptAccess : public SoftAccess {
 public:
  EptAccess(Machine& machine, bool freezes, EptVcpu& vcpu) : SoftAccess(machine, freezes), vcpu_(vcpu) {}

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
  explicit DirectAccess(Machine& machine)
      : SoftAccess(machine, /*freezes=*/false), memory_(machine.anonymous().data()) {}

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

// The table of versions lies where this machine's scratch does.
void SoftMachine::LoadClone(const SoftMachine& frozen, uint64_t clone) {
  std::memcpy(boot_.bytes().data(), frozen.boot_.bytes().data(), boot_.bytes().size());
  std::memcpy(scratch_.bytes().data(), frozen.scratch_.bytes().data(), scratch_.bytes().size());
  boot().clone = clone;
  const auto offset = reinterpret_cast<std::byte*>(aux().versions) - frozen.scratch_.bytes().data();
  aux().versions = reinterpret_cast<uint32_t*>(scratch_.bytes().data() + offset);
}

void SoftMachine::BecomeTemplate() {
  QUIRE_CHECK(at_freeze_point());
  vcpus_.clear();
  ept_.reset();
}

void SoftMachine::RequestStop() { __atomic_store_n(&boot().stop, 1, __ATOMIC_RELAXED); }

absl::Status SoftMachine::RunVcpu(int vcpu) {
  const uint32_t number = static_cast<uint32_t>(vcpu);
  if (ept_ == nullptr) {
    DirectAccess memory(*this);
    RunWorkload(aux(), boot(), number, memory);
    return absl::OkStatus();
  }
  EptAccess memory(*this, freezes_, *vcpus_[number]);
  if (RunWorkload(aux(), boot(), number, memory, from_) == RunResult::kFrozen) NoteFrozen();
  return memory.status();
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
