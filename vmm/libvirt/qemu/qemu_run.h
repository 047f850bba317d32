// One run of guests that QEMU runs: what RunGuests (vmm/run.h) is to Quire's own.
#ifndef QUIRE_VMM_LIBVIRT_QEMU_QEMU_RUN_H_
#define QUIRE_VMM_LIBVIRT_QEMU_QEMU_RUN_H_

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "vmm/libvirt/connection.h"
#include "vmm/libvirt/qemu/qemu_guests.h"
#include "vmm/options.h"
#include "vmm/progress.h"

namespace quire {

// Starts the guests, takes them through the schedule, samples them into `progress` every kSampleInterval, and ends
// them. The report is as `quire run --json` writes it, with "qemu" for the engine, "kvm" or "tcg" for accel, and
//   qemu                    {"uri", "libvirt_host", "accel_because"}
//   guests[].memory_stats   what virDomainMemoryStats said last, by its names, sizes in bytes
// What only Quire's own memory manager counts is zero. Errors: those of OpenLibvirt and RunDirectory::Copy; a guest
// that cannot be started or dies is part of the report. `options` are as for RunGuests, with a kernel, groups and a
// schedule.
absl::StatusOr<nlohmann::json> RunQemuGuests(const RunOptions& options, const QemuHost& host, ProgressSink& progress);

// The same over a connection that there is.
absl::StatusOr<nlohmann::json> RunQemuGuests(const RunOptions& options, const QemuHost& host,
                                             LibvirtConnection& libvirt, ProgressSink& progress);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_QEMU_QEMU_RUN_H_
