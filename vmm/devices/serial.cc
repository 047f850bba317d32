#include "vmm/devices/serial.h"

#include <linux/serial_reg.h>

#include <algorithm>
#include <utility>

namespace quire {
namespace {

constexpr size_t kFifoSize = 16;
constexpr uint8_t kInterrupts = UART_IER_MSI | UART_IER_RLSI | UART_IER_THRI | UART_IER_RDI;
constexpr uint8_t kModemControl = UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_OUT1 | UART_MCR_RTS | UART_MCR_DTR;
constexpr uint8_t kModemLines = UART_MSR_DCD | UART_MSR_RI | UART_MSR_DSR | UART_MSR_CTS;
// Somebody is at the other end, and ready.
constexpr uint8_t kConnected = UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
constexpr uint8_t kFifosEnabled = 0xc0;  // in the interrupt identification register

// Loopback connects each output of the modem control register to an input of the modem status register.
uint8_t LoopedBack(uint8_t modem_control) {
  uint8_t lines = 0;
  if ((modem_control & UART_MCR_DTR) != 0) lines |= UART_MSR_DSR;
  if ((modem_control & UART_MCR_RTS) != 0) lines |= UART_MSR_CTS;
  if ((modem_control & UART_MCR_OUT1) != 0) lines |= UART_MSR_RI;
  if ((modem_control & UART_MCR_OUT2) != 0) lines |= UART_MSR_DCD;
  return lines;
}

// Which of the four lines have changed; of the ring indicator only its end is reported.
uint8_t Deltas(uint8_t before, uint8_t after) {
  constexpr int kDeltaShift = 4;
  const uint8_t changed = (before ^ after) & (UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS);
  const uint8_t ended = before & ~after & UART_MSR_RI;
  return static_cast<uint8_t>((changed | ended) >> kDeltaShift);
}

}  // namespace

Serial::Serial(std::function<void()> interrupt, std::function<void(absl::string_view)> output)
    : interrupt_(std::move(interrupt)), output_(std::move(output)), modem_status_(kConnected) {}

void Serial::Read(uint64_t offset, absl::Span<std::byte> data) {
  bool edge;
  {
    absl::MutexLock lock(&lock_);
    // A wider access is one of each register, in order, as on the bus that these ports come from.
    for (std::byte& byte : data) byte = std::byte{ReadRegister(offset++)};
    edge = std::exchange(edge_, false);
  }
  if (edge) interrupt_();
}

void Serial::Write(uint64_t offset, absl::Span<const std::byte> data) {
  for (const std::byte byte : data) {
    std::optional<char> sent;
    bool edge;
    {
      absl::MutexLock lock(&lock_);
      sent = WriteRegister(offset++, std::to_integer<uint8_t>(byte));
      edge = std::exchange(edge_, false);
    }
    if (sent.has_value()) output_(absl::string_view(&*sent, 1));
    if (edge) interrupt_();
  }
}

void Serial::Receive(absl::string_view input) {
  bool edge;
  {
    absl::MutexLock lock(&lock_);
    waiting_.insert(waiting_.end(), input.begin(), input.end());
    Admit();
    edge = std::exchange(edge_, false);
  }
  if (edge) interrupt_();
}

size_t Serial::waiting() const {
  absl::MutexLock lock(&lock_);
  return waiting_.size();
}

uint8_t Serial::ReadRegister(uint64_t port) {
  const bool divisor_latch = (line_control_ & UART_LCR_DLAB) != 0;
  switch (port) {
    case UART_RX:
      return divisor_latch ? static_cast<uint8_t>(divisor_) : TakeByte();
    case UART_IER:
      return divisor_latch ? static_cast<uint8_t>(divisor_ >> 8) : interrupt_enable_;
    case UART_IIR:
      return TakeInterruptId();
    case UART_LCR:
      return line_control_;
    case UART_MCR:
      return modem_control_;
    case UART_LSR:
      return TakeLineStatus();
    case UART_MSR: {
      const uint8_t status = std::exchange(modem_status_, modem_status_ & kModemLines);
      Notice();
      return status;
    }
    case UART_SCR:
      return scratch_;
    default:
      return 0xff;
  }
}

std::optional<char> Serial::WriteRegister(uint64_t port, uint8_t value) {
  const bool divisor_latch = (line_control_ & UART_LCR_DLAB) != 0;
  switch (port) {
    case UART_TX:
      if (!divisor_latch) return Send(value);
      divisor_ = static_cast<uint16_t>((divisor_ & 0xff00) | value);
      break;
    case UART_IER:
      if (!divisor_latch) {
        SetInterruptEnable(value);
      } else {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff) | value << 8);
      }
      break;
    case UART_FCR:
      SetFifoControl(value);
      break;
    case UART_LCR:
      line_control_ = value;
      break;
    case UART_MCR:
      SetModemControl(value);
      break;
    case UART_SCR:
      scratch_ = value;
      break;
    default:
      break;
  }
  return std::nullopt;
}

uint8_t Serial::TakeByte() {
  if (fifo_.empty()) return 0;
  const uint8_t byte = fifo_.front();
  fifo_.pop_front();
  Notice();
  Admit();
  return byte;
}

uint8_t Serial::TakeInterruptId() {
  const uint8_t enabled = fifo_enabled_ ? kFifosEnabled : 0;
  const uint8_t causes = Causes();
  // By priority.
  if ((causes & UART_IER_RLSI) != 0) return enabled | UART_IIR_RLSI;
  if ((causes & UART_IER_RDI) != 0) return enabled | UART_IIR_RDI;
  if ((causes & UART_IER_THRI) != 0) {
    sent_ = false;  // reading it here is what acknowledges it
    Notice();
    return enabled | UART_IIR_THRI;
  }
  if ((causes & UART_IER_MSI) != 0) return enabled | UART_IIR_MSI;
  return enabled | UART_IIR_NO_INT;
}

uint8_t Serial::TakeLineStatus() {
  uint8_t status = UART_LSR_TEMT | UART_LSR_THRE;
  if (!fifo_.empty()) status |= UART_LSR_DR;
  if (std::exchange(overrun_, false)) status |= UART_LSR_OE;
  Notice();
  return status;
}

std::optional<char> Serial::Send(uint8_t value) {
  sent_ = true;
  std::optional<char> out;
  if (!Has(UART_MCR_LOOP)) {
    out = static_cast<char>(value);
  } else if (fifo_.size() < Capacity()) {
    fifo_.push_back(value);
  } else {
    overrun_ = true;
  }
  Notice();
  return out;
}

void Serial::SetInterruptEnable(uint8_t value) {
  // There is always room to send, so that enabling that interrupt causes one, each time. Linux tests for it.
  if ((value & ~interrupt_enable_ & UART_IER_THRI) != 0) sent_ = true;
  interrupt_enable_ = value & kInterrupts;
  Notice();
}

void Serial::SetFifoControl(uint8_t value) {
  const bool enable = (value & UART_FCR_ENABLE_FIFO) != 0;
  // Changing it clears both; there is never anything in the one that sends.
  if (enable != fifo_enabled_ || (enable && (value & UART_FCR_CLEAR_RCVR) != 0)) fifo_.clear();
  fifo_enabled_ = enable;
  Notice();
  Admit();
}

void Serial::SetModemControl(uint8_t value) {
  modem_control_ = value & kModemControl;
  const uint8_t before = modem_status_ & kModemLines;
  const uint8_t after = Has(UART_MCR_LOOP) ? LoopedBack(modem_control_) : kConnected;
  modem_status_ = static_cast<uint8_t>((modem_status_ & ~kModemLines) | after | Deltas(before, after));
  Notice();
  Admit();
}

size_t Serial::Capacity() const { return fifo_enabled_ ? kFifoSize : 1; }

uint8_t Serial::Causes() const {
  uint8_t causes = 0;
  if (overrun_) causes |= UART_IER_RLSI;
  if (!fifo_.empty()) causes |= UART_IER_RDI;
  if (sent_) causes |= UART_IER_THRI;
  if ((modem_status_ & ~kModemLines) != 0) causes |= UART_IER_MSI;
  return causes & interrupt_enable_;
}

void Serial::Notice() {
  // On a PC the line passes a gate that OUT2 opens, unless that is looped back.
  const bool gated = !Has(UART_MCR_OUT2) || Has(UART_MCR_LOOP);
  const uint8_t causes = gated ? 0 : Causes();
  // One edge for each cause, though the line would stay up for a second one: Linux gives up on a line that stays up for
  // long, and would then wait for an edge that never comes.
  if ((causes & ~noticed_) != 0) edge_ = true;
  noticed_ = causes;
}

void Serial::Admit() {
  if (!fifo_.empty() || waiting_.empty() || !Has(UART_MCR_RTS) || Has(UART_MCR_LOOP)) return;
  // Only into an empty FIFO, so that all that is there is one cause, and what comes after that another.
  const auto end = waiting_.begin() + static_cast<ptrdiff_t>(std::min(Capacity(), waiting_.size()));
  fifo_.assign(waiting_.begin(), end);
  waiting_.erase(waiting_.begin(), end);
  Notice();
}

}  // namespace quire
