// A serial port: the 16550A UART of a PC, as Linux's 8250 driver wants it.
//
// The line is infinitely fast: what is sent has gone before the guest looks again, and of what has been received the
// guest has up to 16 bytes in its FIFO and the others wait outside until it has read those. That nothing is lost before
// a driver is there, bytes wait too while the guest has not set RTS, as they do with a modem at the other end.
//
// Source: National Semiconductor, PC16550D data sheet; <linux/serial_reg.h>.
#ifndef QUIRE_VMM_DEVICES_SERIAL_H_
#define QUIRE_VMM_DEVICES_SERIAL_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "vmm/devices/bus.h"

namespace quire {

// Thread safe. Its lock is a leaf: the functions it was made with are called without it, on the caller's thread.
class Serial : public BusDevice {
 public:
  // `interrupt` makes one edge on the port's line. `output` gets what the guest has sent, in order as long as the guest
  // lets one vCPU at a time send.
  Serial(std::function<void()> interrupt, std::function<void(absl::string_view)> output);

  void Read(uint64_t offset, absl::Span<std::byte> data) override;
  void Write(uint64_t offset, absl::Span<const std::byte> data) override;

  // Sends bytes to the guest. They wait as long as it does not read.
  void Receive(absl::string_view input);
  // How many bytes wait for the guest to read what came before: whoever has plenty of input looks here.
  size_t waiting() const;

 private:
  uint8_t ReadRegister(uint64_t port) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Returns the byte that goes out, if one does.
  std::optional<char> WriteRegister(uint64_t port, uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  uint8_t TakeByte() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  uint8_t TakeLineStatus() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  uint8_t TakeInterruptId() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  std::optional<char> Send(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void SetInterruptEnable(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void SetFifoControl(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void SetModemControl(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  bool Has(uint8_t bit) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return (modem_control_ & bit) != 0; }
  size_t Capacity() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);  // of the FIFO, in bytes
  // The causes of interrupts that are there and enabled, as bits of the interrupt enable register.
  uint8_t Causes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // After every change: notices new causes, and causes that have gone.
  void Notice() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Lets bytes in that wait, if there is room.
  void Admit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  const std::function<void()> interrupt_;
  const std::function<void(absl::string_view)> output_;

  mutable absl::Mutex lock_;
  std::deque<char> waiting_ ABSL_GUARDED_BY(lock_);
  std::deque<uint8_t> fifo_ ABSL_GUARDED_BY(lock_);  // what the guest can read
  uint8_t interrupt_enable_ ABSL_GUARDED_BY(lock_) = 0;
  uint8_t line_control_ ABSL_GUARDED_BY(lock_) = 0;
  uint8_t modem_control_ ABSL_GUARDED_BY(lock_) = 0;
  uint8_t modem_status_ ABSL_GUARDED_BY(lock_);
  uint8_t scratch_ ABSL_GUARDED_BY(lock_) = 0;
  uint16_t divisor_ ABSL_GUARDED_BY(lock_) = 12;  // 9600 baud
  bool fifo_enabled_ ABSL_GUARDED_BY(lock_) = false;
  bool overrun_ ABSL_GUARDED_BY(lock_) = false;
  bool sent_ ABSL_GUARDED_BY(lock_) = false;    // "transmitter empty" has not been acknowledged
  uint8_t noticed_ ABSL_GUARDED_BY(lock_) = 0;  // causes at the last Notice
  bool edge_ ABSL_GUARDED_BY(lock_) = false;    // a new cause, for which interrupt_ has not been called
};

}  // namespace quire

#endif  // QUIRE_VMM_DEVICES_SERIAL_H_
