#include "vmm/devices/power.h"

#include <algorithm>

#include "vmm/boot/pc_layout.h"

namespace quire {
namespace {

// PM1a registers, by their ports. The bits are those of the second byte of each.
constexpr uint64_t kStatusHigh = 1;
constexpr uint64_t kEnableHigh = 3;
constexpr uint64_t kControlLow = 4;
constexpr uint64_t kControlHigh = 5;
constexpr uint8_t kPowerButton = 1 << (8 - 8);  // PWRBTN_STS, PWRBTN_EN
constexpr uint8_t kSciEnable = 1 << 0;
constexpr int kSleepTypeShift = 10 - 8;
constexpr uint8_t kSleepType = 7 << kSleepTypeShift;
constexpr uint8_t kSleepEnable = 1 << (13 - 8);

constexpr uint8_t kResetCpu = 1 << 2;      // of the reset register, the only bit that does anything
constexpr uint8_t kPulseResetLine = 0xfe;  // of the keyboard controller
constexpr uint8_t kNothing = 0;            // no key, and ready for a command
static_assert((kResetValue & kResetCpu) != 0);

}  // namespace

void AcpiPm::Read(uint64_t offset, absl::Span<std::byte> data) {
  absl::MutexLock lock(&lock_);
  for (std::byte& byte : data) byte = std::byte{ReadByte(offset++)};
}

void AcpiPm::Write(uint64_t offset, absl::Span<const std::byte> data) {
  bool off = false;
  bool sci = false;
  {
    absl::MutexLock lock(&lock_);
    for (const std::byte byte : data) off |= WriteByte(offset++, std::to_integer<uint8_t>(byte));
    sci = Sci();
  }
  set_sci_(sci);
  if (off) power_.Report(PowerEvent::kPowerOff);
}

uint8_t AcpiPm::ReadByte(uint64_t port) const {
  switch (port) {
    case kStatusHigh:
      return status_;
    case kEnableHigh:
      return enable_;
    case kControlLow:
      return kSciEnable;
    case kControlHigh:
      return control_;
    default:
      return 0;
  }
}

bool AcpiPm::WriteByte(uint64_t port, uint8_t value) {
  switch (port) {
    case kStatusHigh:
      status_ &= ~value;  // a one clears
      return false;
    case kEnableHigh:
      enable_ = value & kPowerButton;
      return false;
    case kControlHigh:
      control_ = value & kSleepType;  // the bit that does it reads as zero
      return (value & kSleepEnable) != 0 && control_ == kSleepTypeOff << kSleepTypeShift;
    default:
      return false;
  }
}

void AcpiPm::PressPowerButton() {
  bool sci = false;
  {
    absl::MutexLock lock(&lock_);
    status_ |= kPowerButton;
    sci = Sci();
  }
  set_sci_(sci);
}

void ResetPort::Read(uint64_t /*offset*/, absl::Span<std::byte> data) {
  std::fill(data.begin(), data.end(), std::byte{value_.load(std::memory_order_relaxed)});
}

void ResetPort::Write(uint64_t /*offset*/, absl::Span<const std::byte> data) {
  const uint8_t value = std::to_integer<uint8_t>(data[0]);
  value_.store(value & ~kResetCpu, std::memory_order_relaxed);
  if ((value & kResetCpu) != 0) power_.Report(PowerEvent::kReset);
}

void I8042::Read(uint64_t /*offset*/, absl::Span<std::byte> data) {
  std::fill(data.begin(), data.end(), std::byte{kNothing});
}

void I8042::Write(uint64_t offset, absl::Span<const std::byte> data) {
  if (offset == kCommand && data[0] == std::byte{kPulseResetLine}) power_.Report(PowerEvent::kReset);
}

}  // namespace quire
