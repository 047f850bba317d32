// A port by which bare-metal test kernels end with a status: QEMU's isa-debug-exit, at the port where kvm-unit-tests
// look for it.
//
// QEMU ends with 2 * value + 1, so that no value is a success to a shell. Here the value itself is the guest's status,
// and 0 is a success, as it is for the exit() of kvm-unit-tests.
//
// Source: QEMU, hw/misc/debugexit.c; kvm-unit-tests, lib/x86/io.c.
#ifndef QUIRE_VMM_DEVICES_DEBUG_EXIT_H_
#define QUIRE_VMM_DEVICES_DEBUG_EXIT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#include "absl/types/span.h"
#include "vmm/devices/bus.h"

namespace quire {

// Thread safe.
class DebugExit : public BusDevice {
 public:
  // `report` gets what the guest writes first to any of its ports, of 1, 2 or 4 bytes; called once, on the caller's
  // thread.
  explicit DebugExit(std::function<void(uint32_t)> report) : report_(std::move(report)) {}

  // Zeros.
  void Read(uint64_t offset, absl::Span<std::byte> data) override;
  void Write(uint64_t offset, absl::Span<const std::byte> data) override;

 private:
  const std::function<void(uint32_t)> report_;
  std::atomic<bool> reported_ = false;
};

}  // namespace quire

#endif  // QUIRE_VMM_DEVICES_DEBUG_EXIT_H_
