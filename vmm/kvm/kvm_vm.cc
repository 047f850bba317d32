#include "vmm/kvm/kvm_vm.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace quire {
namespace {

// Between the devices and the top of 4 GiB, where a PC has its firmware.
constexpr Gpa kIdentityMap{0xfffb'c000};
constexpr Gpa kTaskStates{0xfffb'd000};

// KVM_CREATE_VM gives up when a signal arrives.
UniqueFd CreateVm(int system_fd) {
  for (;;) {
    UniqueFd fd(ioctl(system_fd, KVM_CREATE_VM, 0));
    if (fd.valid() || errno != EINTR) return fd;
  }
}

// Without this, an instruction that KVM has to emulate and cannot looks like an invalid instruction to the guest. An
// old kernel's refusal costs only the better explanation.
void ExitOnEmulationFailure(const KvmSystem& system, int vm_fd) {
  if (system.Capability(KVM_CAP_EXIT_ON_EMULATION_FAILURE) == 0) return;
  kvm_enable_cap enable = {};
  enable.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE;
  enable.args[0] = 1;
  (void)ioctl(vm_fd, KVM_ENABLE_CAP, &enable);
}

std::string Describe(const kvm_userspace_memory_region& region) {
  return absl::StrFormat("setting memslot %u (guest physical 0x%x, %u bytes, host 0x%x)", region.slot,
                         region.guest_phys_addr, region.memory_size, region.userspace_addr);
}

// What comes before the entries of a table of routes. <linux/kvm.h> has struct kvm_irq_routing for it, which C++ lays
// out differently from C (see CpuidTable).
struct RoutingHeader {
  uint32_t size = 0;
  uint32_t flags = 0;
};
constexpr unsigned long kKvmSetGsiRouting = _IOC(_IOC_WRITE, KVMIO, 0x6a, sizeof(RoutingHeader));
static_assert(sizeof(RoutingHeader) == 8 && sizeof(kvm_irq_routing_entry) == 48);

// As on a PC: an ISA interrupt goes to its pin of the PICs and of the I/O APIC, where the timer has pin 2. (By itself
// KVM has it on pin 0, which no firmware table says.)
absl::Status RouteInterrupts(int vm_fd) {
  constexpr uint32_t kIoApicPins = 24, kPicPins = 8, kIsaInterrupts = 16, kTimer = 0, kTimerPin = 2;
  std::vector<kvm_irq_routing_entry> entries;
  const auto route = [&](uint32_t gsi, uint32_t chip, uint32_t pin) {
    kvm_irq_routing_entry entry = {};
    entry.gsi = gsi;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = pin;
    entries.push_back(entry);
  };
  for (uint32_t gsi = 0; gsi < kIoApicPins; ++gsi) {
    if (gsi < kIsaInterrupts)
      route(gsi, gsi < kPicPins ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % kPicPins);
    if (gsi != kTimerPin) route(gsi, KVM_IRQCHIP_IOAPIC, gsi == kTimer ? kTimerPin : gsi);
  }
  RoutingHeader header;
  header.size = static_cast<uint32_t>(entries.size());
  std::vector<std::byte> table(sizeof header + entries.size() * sizeof entries[0]);
  std::memcpy(table.data(), &header, sizeof header);
  std::memcpy(table.data() + sizeof header, entries.data(), entries.size() * sizeof entries[0]);
  if (ioctl(vm_fd, kKvmSetGsiRouting, table.data()) == 0) return absl::OkStatus();
  return KvmCallError("routing interrupts", errno);
}

}  // namespace

std::optional<KvmStats> OpenKvmStats(const KvmSystem& system, int fd) {
  if (system.Capability(KVM_CAP_BINARY_STATS_FD) == 0) return std::nullopt;
  UniqueFd stats_fd(ioctl(fd, KVM_GET_STATS_FD, 0));
  if (!stats_fd.valid()) return std::nullopt;
  absl::StatusOr<KvmStats> stats = KvmStats::Open(std::move(stats_fd));
  if (!stats.ok()) return std::nullopt;
  return *std::move(stats);
}

KvmVm::KvmVm(const KvmSystem& system, UniqueFd fd, std::optional<KvmStats> stats)
    : system_(system), fd_(std::move(fd)), stats_(std::move(stats)) {}

absl::StatusOr<std::unique_ptr<KvmVm>> KvmVm::Create(const KvmSystem& system) {
  UniqueFd fd = CreateVm(system.fd());
  if (!fd.valid()) return KvmCallError("creating a virtual machine", errno);
  ExitOnEmulationFailure(system, fd.get());
  std::optional<KvmStats> stats = OpenKvmStats(system, fd.get());
  return absl::WrapUnique(new KvmVm(system, std::move(fd), std::move(stats)));
}

absl::Status KvmVm::AddPcChips() {
  // Intel's processors without unrestricted guests need four pages that the guest does not use.
  uint64_t identity_map = kIdentityMap.value();
  if (ioctl(fd_.get(), KVM_SET_IDENTITY_MAP_ADDR, &identity_map) != 0) {
    return KvmCallError("placing KVM's own page table", errno);
  }
  if (ioctl(fd_.get(), KVM_SET_TSS_ADDR, kTaskStates.value()) != 0) return KvmCallError("placing KVM's own TSS", errno);
  if (ioctl(fd_.get(), KVM_CREATE_IRQCHIP, 0) != 0) return KvmCallError("making interrupt controllers", errno);
  if (absl::Status status = RouteInterrupts(fd_.get()); !status.ok()) return status;
  kvm_pit_config timer = {};
  timer.flags = KVM_PIT_SPEAKER_DUMMY;  // the port by which a PC calibrates its clock
  if (ioctl(fd_.get(), KVM_CREATE_PIT2, &timer) != 0) return KvmCallError("making the timer", errno);
  return absl::OkStatus();
}

void KvmVm::SetInterrupt(int gsi, bool up) const {
  kvm_irq_level line = {};
  line.irq = static_cast<uint32_t>(gsi);
  line.level = up ? 1 : 0;
  (void)ioctl(fd_.get(), KVM_IRQ_LINE, &line);
}

absl::Status KvmVm::SetMemslot(Memslot slot, Gpa gpa, ByteCount size, Hva hva, Protection protection) {
  kvm_userspace_memory_region region = {};
  region.slot = static_cast<uint32_t>(slot);
  region.flags = protection == Protection::kReadOnly ? KVM_MEM_READONLY : 0;
  region.guest_phys_addr = gpa.value();
  region.memory_size = size.in_bytes();
  region.userspace_addr = hva.value();
  if (ioctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &region) != 0) return KvmCallError(Describe(region), errno);
  return absl::OkStatus();
}

absl::Status KvmVm::RemoveMemslot(Memslot slot) {
  kvm_userspace_memory_region region = {};
  region.slot = static_cast<uint32_t>(slot);
  if (ioctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &region) != 0) {
    return KvmCallError(absl::StrCat("removing memslot ", region.slot), errno);
  }
  return absl::OkStatus();
}

}  // namespace quire
