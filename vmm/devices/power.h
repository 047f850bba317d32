// How a guest turns its machine off or resets it, and how it is asked to.
//
//   0x600  ACPI fixed hardware: PM1a status and enable, 2 bytes each, then PM1a control, 2 bytes
//   0xcf9  reset register of the chipset, 1 byte
//   0x60, 0x64  keyboard controller, of which only the reset line is there
//
// Source: ACPI specification 6.4, 4.8.3 (fixed hardware registers), 4.8.4.6 (reset register).
#ifndef QUIRE_VMM_DEVICES_POWER_H_
#define QUIRE_VMM_DEVICES_POWER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "vmm/devices/bus.h"

namespace quire {

enum class PowerEvent { kPowerOff, kReset };

// The devices that can end a machine share one, which outlives them. It reports one event, the first; a guest may
// repeat itself, and its vCPUs may contradict each other. Thread safe.
class PowerSwitch {
 public:
  explicit PowerSwitch(std::function<void(PowerEvent)> report) : report_(std::move(report)) {}
  void Report(PowerEvent event) {
    if (!reported_.exchange(true)) report_(event);
  }

 private:
  const std::function<void(PowerEvent)> report_;
  std::atomic<bool> reported_ = false;
};

// The PM1a event and control blocks, one after the other. The guest is in ACPI mode from the start (SCI_EN), has a
// power button and no other event, and knows one sleeping state: S5, off, of type kSleepTypeOff.
// Thread safe. Its lock is a leaf.
class AcpiPm : public BusDevice {
 public:
  // `set_sci` sets the line of the system control interrupt, which is up while an event is there and enabled. It may be
  // told again what it is. Called on the caller's thread, without the lock.
  AcpiPm(std::function<void(bool)> set_sci, PowerSwitch& power) : set_sci_(std::move(set_sci)), power_(power) {}

  void Read(uint64_t offset, absl::Span<std::byte> data) override;
  void Write(uint64_t offset, absl::Span<const std::byte> data) override;

  // The guest learns of it if it has enabled the event, or when it does.
  void PressPowerButton();

 private:
  uint8_t ReadByte(uint64_t port) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Returns whether that turns the machine off.
  bool WriteByte(uint64_t port, uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  bool Sci() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return (status_ & enable_) != 0; }

  const std::function<void(bool)> set_sci_;
  PowerSwitch& power_;
  mutable absl::Mutex lock_;
  // The second bytes of the registers; nothing is in the first ones but SCI_EN, which never changes.
  uint8_t status_ ABSL_GUARDED_BY(lock_) = 0;
  uint8_t enable_ ABSL_GUARDED_BY(lock_) = 0;
  uint8_t control_ ABSL_GUARDED_BY(lock_) = 0;
};

// Thread safe.
class ResetPort : public BusDevice {
 public:
  explicit ResetPort(PowerSwitch& power) : power_(power) {}

  void Read(uint64_t offset, absl::Span<std::byte> data) override;
  void Write(uint64_t offset, absl::Span<const std::byte> data) override;

 private:
  PowerSwitch& power_;
  std::atomic<uint8_t> value_ = 0;  // the kind of reset that is to come, which changes nothing
};

// A keyboard controller that always has time and never a key. Attach it by ports, since 0x61 is somebody else's:
//   bus.Attach(0x60, 1, &i8042, I8042::kData);
//   bus.Attach(0x64, 1, &i8042, I8042::kCommand);
// Thread safe.
class I8042 : public BusDevice {
 public:
  static constexpr uint64_t kData = 0;
  static constexpr uint64_t kCommand = 4;

  explicit I8042(PowerSwitch& power) : power_(power) {}

  void Read(uint64_t offset, absl::Span<std::byte> data) override;
  void Write(uint64_t offset, absl::Span<const std::byte> data) override;

 private:
  PowerSwitch& power_;
};

}  // namespace quire

#endif  // QUIRE_VMM_DEVICES_POWER_H_
