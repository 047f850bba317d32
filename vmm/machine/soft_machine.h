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

namespace quire {

struct SoftMachineOptions {
  std::string name;
  ByteCount memory;
  int vcpus = 1;
  const Work* work = nullptr;
  uint64_t seed = 0;
  AnonymousBlocks anonymous_blocks = AnonymousBlocks::kWanted;  // without managed memory
};

class SoftMachine final : public Machine {
 public:
  // As KvmMachine::Create. Without `memory`, vCPUs use plain anonymous memory directly.
  static absl::StatusOr<std::unique_ptr<SoftMachine>> Create(const SoftMachineOptions& options, Pool* pool,
                                                             GuestMemory* memory);
  ~SoftMachine() override;

  void RequestStop() override;
  void StartSweep() override { SetGo(scratch_.bytes()); }
  // Null without managed memory.
  Ept* ept() { return ept_.get(); }

 private:
  SoftMachine(const SoftMachineOptions& options, GuestMemory* memory) : Machine(options.name, options.vcpus, memory) {}

  absl::Status Assemble(const SoftMachineOptions& options, Pool* pool, GuestMemory* memory);
  absl::Status RunVcpu(int vcpu) override;
  void KickVcpus() override { RequestStop(); }
  quire_progress ReadProgressOf(int vcpu) const override;

  quire_boot_info& boot() const { return *reinterpret_cast<quire_boot_info*>(boot_.bytes().data()); }
  const AuxArea& aux() const { return *reinterpret_cast<const AuxArea*>(scratch_.bytes().data()); }

  std::unique_ptr<Ept> ept_;
  std::vector<std::unique_ptr<EptVcpu>> vcpus_;
  WiredRegion boot_;
  WiredRegion scratch_;
};

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_SOFT_MACHINE_H_
