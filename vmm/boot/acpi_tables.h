// The ACPI tables of the machine: processors, interrupt controllers, power, the console and the virtio devices.
//
//   RSDP ─► XSDT (and RSDT, for kernels that know no better) ─► FADT ─► DSDT, FACS
//                                                             └► MADT
//
// They lie between kAcpiBegin and kAcpiEnd, which the guest is told is reserved, in ordinary memory. A guest finds the
// RSDP by being told, or by looking through the firmware's area as on a real PC.
//
// Source: ACPI Specification 6.5, chapters 4 and 5.
#ifndef QUIRE_VMM_BOOT_ACPI_TABLES_H_
#define QUIRE_VMM_BOOT_ACPI_TABLES_H_

#include <cstddef>
#include <string>
#include <vector>

#include "base/units.h"
#include "vmm/boot/pc_layout.h"

namespace quire {

// Bytes that lie from kAcpiBegin on; the RSDP is at their beginning. At least one and at most kMaxPcVcpus vCPUs, with
// APIC ids from 0; at most kMaxVirtioDevices devices. Pure.
std::vector<std::byte> BuildAcpiTables(int vcpus, int virtio_devices);

// For tests: the DSDT alone, with its header.
std::string BuildDsdt(int virtio_devices);

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_ACPI_TABLES_H_
