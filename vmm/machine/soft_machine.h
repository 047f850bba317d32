// A guest on software vCPUs: the workload runs natively on host threads and reaches its memory through the software
// EPT. Needs neither KVM nor privileges.
#ifndef QUIRE_VMM_MACHINE_SOFT_MACHINE_H_
#define QUIRE_VMM_MACHINE_SOFT_MACHINE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "base/units.h"
#include "guest/frames/pool.h"
#include "guest/guest_memory.h"
#include "mmu/ept.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/wired_region.h"
#include "vmm/machine/work.h"
#include "workloads/aux_area.h"
#include "workloads/fill_aux_area.h"
#include "workloads/guest_abi.h"
#include "workloads/run.h"

namespace quire {

class SoftMachine;

struct SoftMachineOptions {
  std::string name;
  ByteCount memory;
  int vcpus = 1;
  const Work* work = nullptr;
  uint64_t seed = 0;
  AnonymousBlocks anonymous_blocks = AnonymousBlocks::kWanted;  // without managed memory
  // As KvmMachineOptions'.
  bool freezes = false;
  const SoftMachine* clone_of = nullptr;
  uint64_t clone = 0;
};

class SoftMachine final : public Machine {
 public:
  // As KvmMachine::Create. Without `memory`, vCPUs use plain anonymous memory directly.
  static absl::StatusOr<std::unique_ptr<SoftMachine>> Create(const SoftMachineOptions& options, Pool* pool,
                                                             GuestMemory* memory);
  ~SoftMachine() override;

  void RequestStop() override;
  void StartSweep() override { SetGo(scratch_.bytes()); }
  void AddLatency(OperationLatency& sum) const override { AddLatencyOf(scratch_.bytes(), vcpus(), sum); }
  // As KvmMachine's. A software vCPU is its place in the workload, and the tables that this keeps.
  void BecomeTemplate();
  // Null without managed memory, and of a template.
  Ept* ept() { return ept_.get(); }

 private:
  SoftMachine(const SoftMachineOptions& options, GuestMemory* memory)
      : Machine(options.name, options.vcpus, memory),
        freezes_(options.freezes),
        from_(options.clone_of == nullptr ? RunFrom::kStart : RunFrom::kFreezePoint) {}

  absl::Status Assemble(const SoftMachineOptions& options, Pool* pool, GuestMemory* memory);
  void LoadFresh(const SoftMachineOptions& options, const AuxParameters& parameters);
  void LoadClone(const SoftMachine& frozen, uint64_t clone);
  absl::Status RunVcpu(int vcpu) override;
  void KickVcpus() override { RequestStop(); }
  quire_progress ReadProgressOf(int vcpu) const override;
  void AskToRest(uint32_t percent) override { __atomic_store_n(&boot().idle_percent, percent, __ATOMIC_RELAXED); }
  void RestVcpu(Rest& rest) const;

  quire_boot_info& boot() const { return *reinterpret_cast<quire_boot_info*>(boot_.bytes().data()); }
  AuxArea& aux() const { return *reinterpret_cast<AuxArea*>(scratch_.bytes().data()); }

  const bool freezes_;
  const RunFrom from_;
  std::unique_ptr<Ept> ept_;
  std::vector<std::unique_ptr<EptVcpu>> vcpus_;
  WiredRegion boot_;
  WiredRegion scratch_;
};

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_SOFT_MACHINE_H_
