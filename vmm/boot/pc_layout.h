// Where things lie in a PC guest: its memory, its devices' registers, ports and interrupts, and what is put into its
// memory before it starts. Everybody who builds a part of the machine takes the numbers from here.
//
// The guest's physical address space:
//
//           0  +--------------------------------+
//              | memory; the first MiB:         |
//              |     0x1000  GDT                |
//              |     0x2000  page tables        |
//              |     0x8000  boot information   |
//              |     0x9000  stack              |
//              |    0x10000  command line       |
//              |    0x9fc00  not memory to the  |
//              |             guest, to 1 MiB    |
//              |    0xe0000  ACPI tables        |
//       1 MiB  |   the kernel, higher: initrd   |
//              +--------------------------------+  end of memory, at most 3 GiB
//  0xd000'0000 | virtio-mmio, a page a device   |
//  0xfec0'0000 | IO-APIC                        |
//  0xfee0'0000 | local APICs                    |
//       4 GiB  +--------------------------------+
//              | memory beyond 3 GiB            |
//              +--------------------------------+
#ifndef QUIRE_VMM_BOOT_PC_LAYOUT_H_
#define QUIRE_VMM_BOOT_PC_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "base/units.h"
#include "mmu/guest_regions.h"

namespace quire {

// Memory.
inline constexpr ByteCount kPcMinMemory = ByteCount::MiB(2);
inline constexpr ByteCount kPcMaxMemory = ByteCount::GiB(64 << 10);  // half of what 4-level page tables reach
inline constexpr Gpa kLowMemoryLimit{uint64_t{3} << 30};             // low memory ends here at the latest
inline constexpr Gpa kHighMemoryBegin{uint64_t{4} << 30};            // the rest begins here

// What PlanBoot puts below 1 MiB.
inline constexpr Gpa kBootGdt{0x1000};
inline constexpr Gpa kBootPageTables{0x2000};  // six: identity for 4 GiB in 2 MiB pages
inline constexpr Gpa kBootInfo{0x8000};        // boot_params, hvm_start_info or multiboot information
inline constexpr Gpa kBootStack{0xa000};       // the end of its page: it grows down
inline constexpr Gpa kBootCommandLine{0x10000};
inline constexpr ByteCount kBootCommandLineRoom = ByteCount::KiB(64);
inline constexpr Gpa kBaseMemoryEnd{0x9fc00};  // where a PC's firmware keeps its extended data area
inline constexpr Gpa kAcpiBegin{0xe0000};      // the RSDP is the first of the tables
inline constexpr Gpa kAcpiEnd{0x100000};
inline constexpr Gpa kKernelBegin{0x100000};  // a kernel lies nowhere below

// Interrupt controllers.
inline constexpr Gpa kIoApic{0xfec00000};
inline constexpr Gpa kLocalApics{0xfee00000};
inline constexpr int kIoApicId = 0;
inline constexpr int kMaxPcVcpus = 254;  // APIC ids of eight bits: 255 is everybody

// Global system interrupts. An ISA interrupt has its own number, but for the timer, which is wired to pin 2.
inline constexpr int kIsaTimerIrq = 0;
inline constexpr int kTimerGsi = 2;
inline constexpr int kCom1Gsi = 4;
inline constexpr int kSciGsi = 9;
inline constexpr int kVirtioFirstGsi = 16;  // of device 0; edge-triggered, active high

// Ports.
inline constexpr uint16_t kCom1Port = 0x3f8;
inline constexpr uint16_t kCom1Ports = 8;
inline constexpr uint16_t kPm1EventPort = 0x600;  // status, 2 bytes; enable, 2 bytes
inline constexpr uint16_t kPm1EventPorts = 4;
inline constexpr uint16_t kPm1ControlPort = kPm1EventPort + kPm1EventPorts;  // AcpiPm answers at both
inline constexpr uint16_t kPm1ControlPorts = 2;
inline constexpr uint16_t kResetPort = 0xcf9;     // a single one
inline constexpr uint8_t kResetValue = 6;         // what the FADT says to write there
inline constexpr uint16_t kDebugExitPort = 0xf4;  // QEMU's isa-debug-exit
inline constexpr uint16_t kDebugExitPorts = 4;

// Powering off: a write to PM1 control with SLP_EN and this SLP_TYP (ACPI 6.5, 4.8.3.2.1), which \_S5 tells the guest.
// Not zero, so that a write of little more than SLP_EN does not pass for it.
inline constexpr uint8_t kSleepTypeOff = 5;

// virtio-mmio devices.
inline constexpr int kMaxVirtioDevices = 8;
inline constexpr Gpa kVirtioMmio{0xd0000000};
inline constexpr ByteCount kVirtioMmioSize = ByteCount::Bytes(0x1000);
constexpr Gpa VirtioMmio(int device) { return Gpa(kVirtioMmio.value() + device * kVirtioMmioSize.in_bytes()); }
constexpr int VirtioGsi(int device) { return kVirtioFirstGsi + device; }

// The low part from 0 to at most 3 GiB, the rest from 4 GiB on, without a partial last page. `memory` is at most
// kPcMaxMemory. Pure.
GuestRegions PcRegions(ByteCount memory);

// A part of the address space as the guest is told of it (the PC firmware's "e820" map).
struct MemoryMapEntry {
  enum class Type : uint32_t { kMemory = 1, kReserved = 2 };  // ACPI 6.5, 15.1: the numbers of all boot protocols
  Gpa begin;
  ByteCount size;
  Type type;
};
// In ascending order, none overlapping. `memory` as for PcRegions, and at least kPcMinMemory.
std::vector<MemoryMapEntry> PcMemoryMap(ByteCount memory);

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_PC_LAYOUT_H_
