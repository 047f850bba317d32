#include "vmm/virtio/mmio_transport.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

// Without the legacy part, which is no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

namespace quire {
namespace {

constexpr uint32_t kMagic = 0x74726976;   // "virt"
constexpr uint32_t kVersion = 2;          // not the legacy interface
constexpr uint32_t kVendor = 0x52495551;  // "QUIR"
constexpr size_t kMostQueues = 64;        // bits of a request
constexpr uint64_t kRegisterSize = sizeof(uint32_t);

constexpr uint64_t kTransportFeatures =
    FeatureBit(VIRTIO_F_VERSION_1) | FeatureBit(VIRTIO_RING_F_INDIRECT_DESC) | FeatureBit(VIRTIO_RING_F_EVENT_IDX);

// Word 0 or 1 of a 64 bit value, as a selector says; there are no others.
uint32_t Word(uint64_t value, uint32_t word) { return word < 2 ? static_cast<uint32_t>(value >> (32 * word)) : 0; }

uint64_t WithWord(uint64_t value, uint32_t word, uint32_t bits) {
  if (word >= 2) return value;
  const uint64_t mask = uint64_t{0xffffffff} << (32 * word);
  return (value & ~mask) | (uint64_t{bits} << (32 * word));
}

Gpa WithWord(Gpa address, uint32_t word, uint32_t bits) { return Gpa(WithWord(address.value(), word, bits)); }

}  // namespace

MmioTransport::MmioTransport(std::unique_ptr<VirtioDevice> device, DeviceMemory& memory,
                             std::function<void()> interrupt)
    : device_(std::move(device)),
      memory_(memory),
      interrupt_(std::move(interrupt)),
      daemon_(device_->name(), [this] { ProcessAll(); }) {
  for (const uint16_t size : device_->queue_sizes()) queues_.push_back({.most = size});
  QUIRE_CHECK(queues_.size() <= kMostQueues);
  device_->Connect(this);
  daemon_.Start();
}

MmioTransport::~MmioTransport() { Stop(); }

void MmioTransport::Read(uint64_t offset, absl::Span<std::byte> data) {
  absl::MutexLock lock(&lock_);
  if (offset >= VIRTIO_MMIO_CONFIG) return device_->ReadConfig(offset - VIRTIO_MMIO_CONFIG, data);
  // Registers are read and written whole, by the specification.
  const bool whole = data.size() == kRegisterSize && offset % kRegisterSize == 0;
  const uint32_t value = whole ? ReadRegister(offset) : 0;
  std::fill(data.begin(), data.end(), std::byte{0});
  if (whole) std::memcpy(data.data(), &value, sizeof value);
}

void MmioTransport::Write(uint64_t offset, absl::Span<const std::byte> data) {
  {
    absl::MutexLock lock(&lock_);
    // Nothing that one vCPU says comes between another's reset.
    lock_.Await(absl::Condition(
        +[](bool* resetting) { return !*resetting; }, &resetting_));
    if (offset >= VIRTIO_MMIO_CONFIG) {
      device_->WriteConfig(offset - VIRTIO_MMIO_CONFIG, data);
    } else if (data.size() == kRegisterSize && offset % kRegisterSize == 0) {
      uint32_t value;
      std::memcpy(&value, data.data(), sizeof value);
      WriteRegister(offset, value);
    }
  }
  Interrupt();
}

uint64_t MmioTransport::OfferedFeatures() const { return device_->features() | kTransportFeatures; }

const MmioTransport::Queue* MmioTransport::Selected() const {
  return queue_selected_ < queues_.size() ? &queues_[queue_selected_] : nullptr;
}

uint32_t MmioTransport::ReadRegister(uint64_t offset) const {
  const Queue* const queue = Selected();
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
      return kMagic;
    case VIRTIO_MMIO_VERSION:
      return kVersion;
    case VIRTIO_MMIO_DEVICE_ID:
      return device_->id();
    case VIRTIO_MMIO_VENDOR_ID:
      return kVendor;
    case VIRTIO_MMIO_DEVICE_FEATURES:
      return Word(OfferedFeatures(), device_features_selected_);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
      return queue == nullptr ? 0 : queue->most;
    case VIRTIO_MMIO_QUEUE_READY:
      return queue != nullptr && queue->ring != nullptr;
    case VIRTIO_MMIO_INTERRUPT_STATUS:
      return interrupt_status_;
    case VIRTIO_MMIO_STATUS:
      return status_;
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
      return std::numeric_limits<uint32_t>::max();  // there is no such region
    case VIRTIO_MMIO_CONFIG_GENERATION:
      return config_generation_;
    default:
      return 0;
  }
}

void MmioTransport::WriteRegister(uint64_t offset, uint32_t value) {
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
      device_features_selected_ = value;
      break;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
      driver_features_selected_ = value;
      break;
    case VIRTIO_MMIO_DRIVER_FEATURES:
      // What has been agreed to stays.
      if ((status_ & VIRTIO_CONFIG_S_FEATURES_OK) != 0) break;
      driver_features_ = WithWord(driver_features_, driver_features_selected_, value);
      break;
    case VIRTIO_MMIO_QUEUE_SEL:
      queue_selected_ = value;
      break;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
      if (value < queues_.size() && Live()) AskToProcess(static_cast<int>(value));
      break;
    case VIRTIO_MMIO_INTERRUPT_ACK:
      interrupt_status_ &= ~value;
      break;
    case VIRTIO_MMIO_STATUS:
      WriteStatus(value);
      break;
    default:
      if (queue_selected_ < queues_.size()) WriteQueueRegister(queues_[queue_selected_], offset, value);
  }
}

void MmioTransport::WriteQueueRegister(Queue& queue, uint64_t offset, uint32_t value) {
  if (offset == VIRTIO_MMIO_QUEUE_READY) return SetReady(queue, value != 0);
  if (queue.ring != nullptr) return;  // it stays where it is as long as it is ready
  VirtqueueLayout& layout = queue.layout;
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
      // What no queue can have is kept as a size that none can have.
      layout.size = value <= queue.most ? static_cast<uint16_t>(value) : 0;
      break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
      layout.descriptors = WithWord(layout.descriptors, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
      break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
      layout.available = WithWord(layout.available, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
      break;
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
      layout.used = WithWord(layout.used, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
      break;
    default:
      break;
  }
}

void MmioTransport::SetReady(Queue& queue, bool ready) {
  if (ready == (queue.ring != nullptr)) return;
  if (!ready) {
    const std::shared_ptr<Virtqueue> ring = std::exchange(queue.ring, nullptr);
    ring->Close();
    // The driver may use the memory for something else when this returns.
    const int number = static_cast<int>(&queue - queues_.data());
    const auto left = [this, number]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return busy_ != number; };
    return lock_.Await(absl::Condition(&left));
  }
  // What kind of queue it is has been agreed to by now; a driver that has it otherwise finds it not ready.
  if ((status_ & VIRTIO_CONFIG_S_FEATURES_OK) == 0) return;
  VirtqueueLayout layout = queue.layout;
  layout.indirect = (driver_features_ & FeatureBit(VIRTIO_RING_F_INDIRECT_DESC)) != 0;
  layout.event_index = (driver_features_ & FeatureBit(VIRTIO_RING_F_EVENT_IDX)) != 0;
  if (absl::Status status = Virtqueue::Check(layout); !status.ok()) return Fail(status.message());
  queue.ring = std::make_shared<Virtqueue>(memory_, layout);
}

void MmioTransport::WriteStatus(uint32_t value) {
  if (value == 0) return Reset();
  const uint32_t before = status_;
  // A driver only ever adds to it, and the device alone says that it needs a reset.
  uint32_t added = value & ~before &
                   (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |
                    VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED);
  if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && !AcceptFeatures()) added &= ~VIRTIO_CONFIG_S_FEATURES_OK;
  if (((before | added) & VIRTIO_CONFIG_S_FEATURES_OK) == 0) added &= ~VIRTIO_CONFIG_S_DRIVER_OK;
  status_ |= added;
  if ((added & VIRTIO_CONFIG_S_DRIVER_OK) == 0) return;
  if (std::exchange(config_changed_, false)) Raise(VIRTIO_MMIO_INT_CONFIG);
  for (size_t i = 0; i < queues_.size(); ++i) AskToProcess(static_cast<int>(i));
}

bool MmioTransport::AcceptFeatures() {
  const bool known = (driver_features_ & ~OfferedFeatures()) == 0;
  const bool modern = (driver_features_ & FeatureBit(VIRTIO_F_VERSION_1)) != 0;
  if (known && modern) device_->SetFeatures(driver_features_);
  return known && modern;
}

void MmioTransport::Reset() {
  resetting_ = true;
  for (Queue& queue : queues_) {
    if (queue.ring != nullptr) queue.ring->Close();
  }
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return busy_ < 0; };
  lock_.Await(absl::Condition(&idle));
  device_->Reset();
  for (Queue& queue : queues_) queue = {.most = queue.most};
  status_ = 0;
  queue_selected_ = 0;
  device_features_selected_ = 0;
  driver_features_selected_ = 0;
  driver_features_ = 0;
  interrupt_status_ = 0;
  config_changed_ = false;
  resetting_ = false;
}

bool MmioTransport::Live() const {
  constexpr uint32_t kWanted = VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
  constexpr uint32_t kOver = VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;
  return (status_ & (kWanted | kOver)) == kWanted && !resetting_ && !stopped_;
}

void MmioTransport::Raise(uint32_t cause) {
  interrupt_status_ |= cause;
  edge_ = true;
}

void MmioTransport::Interrupt() {
  {
    absl::MutexLock lock(&lock_);
    if (!std::exchange(edge_, false)) return;
  }
  interrupt_();
}

void MmioTransport::Fail(absl::string_view reason) {
  reason_ = std::string(reason);
  status_ |= VIRTIO_CONFIG_S_NEEDS_RESET;
  // Before that the driver is not to be interrupted, and looks at the status by itself.
  if ((status_ & VIRTIO_CONFIG_S_DRIVER_OK) != 0) Raise(VIRTIO_MMIO_INT_CONFIG);
}

void MmioTransport::AskToProcess(int queue) {
  requested_.fetch_or(uint64_t{1} << queue);
  daemon_.Wake();
}

void MmioTransport::ChangeConfig(absl::FunctionRef<void()> change) {
  {
    absl::MutexLock lock(&lock_);
    change();
    ++config_generation_;
    if (Live()) {
      Raise(VIRTIO_MMIO_INT_CONFIG);
    } else {
      config_changed_ = status_ != 0;
    }
  }
  Interrupt();
}

void MmioTransport::ProcessAll() {
  while (const std::optional<Work> work = Begin()) Finish(*work, Process(*work));
}

std::optional<MmioTransport::Work> MmioTransport::Begin() {
  absl::MutexLock lock(&lock_);
  while (const uint64_t requested = requested_.load()) {
    // The next one after the last, so that no queue keeps the device from the others.
    const uint64_t later = requested & ~((uint64_t{2} << last_) - 1);
    const int queue = std::countr_zero(later != 0 ? later : requested);
    requested_.fetch_and(~(uint64_t{1} << queue));
    last_ = queue;
    const size_t index = static_cast<size_t>(queue);
    if (!Live() || index >= queues_.size() || queues_[index].ring == nullptr) continue;
    busy_ = queue;
    return Work{.queue = queue, .ring = queues_[index].ring};
  }
  return std::nullopt;
}

absl::StatusOr<bool> MmioTransport::Process(const Work& work) {
  if (absl::Status status = device_->Process(work.queue, *work.ring); !status.ok()) return status;
  return work.ring->TakeInterrupt();
}

void MmioTransport::Finish(const Work& work, const absl::StatusOr<bool>& interrupt) {
  {
    absl::MutexLock lock(&lock_);
    // What a ring that has been taken away was like is of no interest.
    const bool there = !resetting_ && !stopped_ && queues_[static_cast<size_t>(work.queue)].ring == work.ring;
    if (there && !interrupt.ok()) Fail(interrupt.status().message());
    if (there && interrupt.ok() && *interrupt) Raise(VIRTIO_MMIO_INT_VRING);
  }
  // Still at work: who waits for the end of it sees no interrupt after that.
  Interrupt();
  absl::MutexLock lock(&lock_);
  busy_ = -1;
}

void MmioTransport::Stop() {
  {
    absl::MutexLock lock(&lock_);
    stopped_ = true;
    for (Queue& queue : queues_) {
      if (queue.ring != nullptr) queue.ring->Close();
    }
  }
  daemon_.Stop();
}

std::string MmioTransport::reason() const {
  absl::MutexLock lock(&lock_);
  return reason_;
}

void MmioTransport::Settle() {
  absl::MutexLock lock(&lock_);
  const auto settled = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return stopped_ || (busy_ < 0 && requested_.load() == 0);
  };
  lock_.Await(absl::Condition(&settled));
}

}  // namespace quire
