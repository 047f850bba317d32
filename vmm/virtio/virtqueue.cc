#include "vmm/virtio/virtqueue.h"

// Without the legacy part, which is no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"

namespace quire {
namespace {

constexpr uint64_t kAvailableFlags = offsetof(vring_avail, flags);
constexpr uint64_t kAvailableIndex = offsetof(vring_avail, idx);
constexpr uint64_t kAvailableRing = offsetof(vring_avail, ring);
constexpr uint64_t kUsedIndex = offsetof(vring_used, idx);
constexpr uint64_t kUsedRing = offsetof(vring_used, ring);
constexpr uint64_t kEventSize = sizeof(uint16_t);  // used_event and avail_event, each behind its ring

// Limits of a chain's part. The specification allows 4 GiB in all.
constexpr ByteCount kMostBytes = ByteCount::GiB(4);

Gpa At(Gpa base, uint64_t offset) { return base + ByteCount::Bytes(offset); }

bool Wraps(Gpa address, ByteCount size) {
  return size.in_bytes() > 0 && size.in_bytes() - 1 > std::numeric_limits<uint64_t>::max() - address.value();
}

absl::Status Broken(absl::string_view why) { return absl::InvalidArgumentError(why); }

absl::Status TooShort(absl::string_view part, ByteCount has, ByteCount offset, size_t size) {
  return absl::OutOfRangeError(absl::StrCat("a buffer whose ", part, " part has ", has.in_bytes(),
                                            " bytes was to have ", size, " at byte ", offset.in_bytes()));
}

bool Holds(ByteCount has, ByteCount offset, size_t size) { return offset <= has && size <= (has - offset).in_bytes(); }

uint64_t NextNumber() {
  static std::atomic<uint64_t> numbers = 0;
  return numbers.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

absl::Status ForPieces(absl::Span<const Segment> segments, ByteCount begin, ByteCount end, ByteCount most,
                       absl::FunctionRef<absl::Status(Segment)> piece) {
  ByteCount at;  // where the segment is among those bytes
  for (const Segment& segment : segments) {
    const ByteCount next = at + segment.size;
    for (ByteCount from = std::max(at, begin); from < std::min(next, end);) {
      const ByteCount size = std::min({next - from, end - from, most});
      if (absl::Status status = piece({.address = segment.address + (from - at), .size = size}); !status.ok()) {
        return status;
      }
      from += size;
    }
    at = next;
  }
  return absl::OkStatus();
}

absl::Status Chain::Append(Segment segment, bool writable) {
  if (Wraps(segment.address, segment.size)) return Broken("a descriptor's buffer runs over the end of all addresses");
  if (!writable && !writable_.empty()) return Broken("a chain goes back from buffers to write to buffers to read");
  if (readable_size_ + writable_size_ + segment.size > kMostBytes) return Broken("a chain has more than 4 GiB");
  (writable ? writable_ : readable_).push_back(segment);
  (writable ? writable_size_ : readable_size_) += segment.size;
  return absl::OkStatus();
}

absl::Status Chain::Read(ByteCount offset, absl::Span<std::byte> to) const {
  if (!Holds(readable_size_, offset, to.size())) return TooShort("readable", readable_size_, offset, to.size());
  return ForPieces(readable_, offset, offset + ByteCount::Bytes(to.size()), kMostBytes, [&](Segment piece) {
    const absl::Span<std::byte> bytes = to.first(piece.size.in_bytes());
    to.remove_prefix(bytes.size());
    return memory_->Read(piece.address, bytes);
  });
}

absl::Status Chain::Write(ByteCount offset, absl::Span<const std::byte> from) const {
  if (!Holds(writable_size_, offset, from.size())) return TooShort("writable", writable_size_, offset, from.size());
  return ForPieces(writable_, offset, offset + ByteCount::Bytes(from.size()), kMostBytes, [&](Segment piece) {
    const absl::Span<const std::byte> bytes = from.first(piece.size.in_bytes());
    from.remove_prefix(bytes.size());
    return memory_->Write(piece.address, bytes);
  });
}

absl::StatusOr<std::vector<std::byte>> Chain::ReadAll(ByteCount most) const {
  if (readable_size_ > most) {
    return absl::ResourceExhaustedError(absl::StrCat("a buffer of ", readable_size_.in_bytes(),
                                                     " bytes came where at most ", most.in_bytes(), " make sense"));
  }
  std::vector<std::byte> bytes(readable_size_.in_bytes());
  if (absl::Status status = Read(ByteCount(), absl::MakeSpan(bytes)); !status.ok()) return status;
  return bytes;
}

absl::Status Virtqueue::Check(const VirtqueueLayout& layout) {
  if (!std::has_single_bit(layout.size) || layout.size > kMostDescriptors) {
    return Broken(absl::StrCat("a queue cannot have ", layout.size, " descriptors"));
  }
  const auto area = [](absl::string_view name, Gpa address, uint64_t size, uint64_t alignment) {
    if (address.value() % alignment == 0 && !Wraps(address, ByteCount::Bytes(size))) return absl::OkStatus();
    return Broken(absl::StrCat("a queue's ", name, " cannot be at 0x", absl::Hex(address.value())));
  };
  absl::Status status =
      area("descriptors", layout.descriptors, layout.size * sizeof(vring_desc), VRING_DESC_ALIGN_SIZE);
  status.Update(area("available ring", layout.available, kAvailableRing + layout.size * sizeof(uint16_t) + kEventSize,
                     VRING_AVAIL_ALIGN_SIZE));
  status.Update(area("used ring", layout.used, kUsedRing + layout.size * sizeof(vring_used_elem) + kEventSize,
                     VRING_USED_ALIGN_SIZE));
  return status;
}

Virtqueue::Virtqueue(DeviceMemory& memory, const VirtqueueLayout& layout)
    : memory_(memory), layout_(layout), number_(NextNumber()) {
  QUIRE_CHECK(Check(layout).ok());
}

template <class T>
absl::StatusOr<T> Virtqueue::Load(Gpa address) const {
  T value;
  if (absl::Status status = memory_.Read(address, absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof value));
      !status.ok()) {
    return status;
  }
  return value;
}

template <class T>
absl::Status Virtqueue::Store(Gpa address, T value) const {
  return memory_.Write(address, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&value), sizeof value));
}

absl::StatusOr<std::optional<Chain>> Virtqueue::Pop() {
  if (closed_.load(std::memory_order_relaxed)) return std::nullopt;
  const absl::StatusOr<bool> available = Available();
  if (!available.ok()) return available.status();
  if (!*available) return std::nullopt;
  // A driver has at most as many chains under way as there are descriptors: of fewer its ring names some twice.
  if (in_flight_ == layout_.size) return Broken("the available ring names more chains than there are descriptors");
  const uint64_t slot = next_available_ % layout_.size;
  const auto head = Load<uint16_t>(At(layout_.available, kAvailableRing + slot * sizeof(uint16_t)));
  if (!head.ok()) return head.status();
  absl::StatusOr<Chain> chain = Walk(*head);
  if (!chain.ok()) return chain.status();
  ++next_available_;
  ++in_flight_;
  return *std::move(chain);
}

absl::StatusOr<bool> Virtqueue::Available() {
  if (next_available_ != available_index_) return true;
  const absl::StatusOr<bool> more = LookForMore();
  if (!more.ok() || *more || !layout_.event_index) return more;
  // Nothing: the driver is to notify of the next one. It looks at avail_event after it has moved the index, so the
  // index is looked at once more after that. Pairs with the barrier in virtqueue_kick_prepare of Linux.
  const uint64_t event = kUsedRing + layout_.size * sizeof(vring_used_elem);
  if (absl::Status status = Store(At(layout_.used, event), next_available_); !status.ok()) return status;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return LookForMore();
}

absl::StatusOr<bool> Virtqueue::LookForMore() {
  const auto index = Load<uint16_t>(At(layout_.available, kAvailableIndex));
  if (!index.ok()) return index.status();
  if (static_cast<uint16_t>(*index - next_available_) > layout_.size) {
    return Broken(absl::StrCat("the available ring's index went from ", next_available_, " to ", *index,
                               " in a queue of ", layout_.size));
  }
  available_index_ = *index;
  return available_index_ != next_available_;
}

absl::StatusOr<Chain> Virtqueue::Walk(uint16_t head) const {
  Chain chain(memory_, head, number_);
  Table table = {.address = layout_.descriptors, .size = layout_.size};
  bool indirect = false;
  uint32_t index = head;
  // Who walks more descriptors than a table has goes in circles.
  for (uint32_t walked = 0; walked < table.size; ++walked) {
    const absl::StatusOr<Descriptor> descriptor = LoadDescriptor(table, index);
    if (!descriptor.ok()) return descriptor.status();
    if ((descriptor->flags & VRING_DESC_F_INDIRECT) != 0) {
      if (indirect) return Broken("an indirect table names another one");
      const absl::StatusOr<Table> inner = IndirectTable(*descriptor);
      if (!inner.ok()) return inner.status();
      table = *inner;
      indirect = true;
      index = 0;
      walked = std::numeric_limits<uint32_t>::max();  // the loop makes it 0
      continue;
    }
    const Segment segment = {.address = Gpa(descriptor->address), .size = ByteCount::Bytes(descriptor->length)};
    if (descriptor->length > 0) {
      const bool writable = (descriptor->flags & VRING_DESC_F_WRITE) != 0;
      if (absl::Status status = chain.Append(segment, writable); !status.ok()) return status;
    }
    if ((descriptor->flags & VRING_DESC_F_NEXT) == 0) return chain;
    index = descriptor->next;
  }
  return Broken("a chain of descriptors goes in circles");
}

absl::StatusOr<Virtqueue::Descriptor> Virtqueue::LoadDescriptor(const Table& table, uint32_t index) const {
  if (index >= table.size) {
    return Broken(absl::StrCat("a chain names descriptor ", index, " in a table of ", table.size));
  }
  const auto read = Load<vring_desc>(At(table.address, index * sizeof(vring_desc)));
  if (!read.ok()) return read.status();
  return Descriptor{.address = read->addr, .length = read->len, .flags = read->flags, .next = read->next};
}

absl::StatusOr<Virtqueue::Table> Virtqueue::IndirectTable(const Descriptor& descriptor) const {
  if (!layout_.indirect) return Broken("an indirect descriptor came, which the driver had not agreed to");
  if ((descriptor.flags & VRING_DESC_F_NEXT) != 0) return Broken("a chain goes on after an indirect descriptor");
  const uint32_t count = descriptor.length / sizeof(vring_desc);
  const ByteCount size = ByteCount::Bytes(descriptor.length);
  if (count == 0 || count > kMostIndirect || descriptor.length % sizeof(vring_desc) != 0 ||
      Wraps(Gpa(descriptor.address), size)) {
    return Broken(absl::StrCat("an indirect table cannot have ", descriptor.length, " bytes at 0x",
                               absl::Hex(descriptor.address)));
  }
  return Table{.address = Gpa(descriptor.address), .size = count};
}

absl::Status Virtqueue::Push(const Chain& chain, ByteCount written) {
  // Nor into rings that the driver has taken back.
  if (chain.queue() != number_ || closed_.load(std::memory_order_relaxed)) return absl::OkStatus();
  QUIRE_CHECK(in_flight_ > 0 && written <= chain.writable_size());
  --in_flight_;
  // The length of a whole part of 4 GiB does not fit; 4 GiB less a byte is as true as it gets.
  const uint64_t length = std::min<uint64_t>(written.in_bytes(), std::numeric_limits<uint32_t>::max());
  const vring_used_elem element = {.id = chain.head(), .len = static_cast<uint32_t>(length)};
  const uint64_t slot = next_used_ % layout_.size;
  if (absl::Status status = Store(At(layout_.used, kUsedRing + slot * sizeof element), element); !status.ok()) {
    return status;
  }
  ++next_used_;
  // Written with release: who sees the index sees the element, and what the device wrote before.
  return Store(At(layout_.used, kUsedIndex), next_used_);
}

absl::Status Virtqueue::ServeAll(absl::FunctionRef<absl::StatusOr<ByteCount>(const Chain&)> serve) {
  for (;;) {
    const absl::StatusOr<std::optional<Chain>> popped = Pop();
    if (!popped.ok()) return popped.status();
    if (!popped->has_value()) return absl::OkStatus();
    const absl::StatusOr<ByteCount> written = serve(**popped);
    if (!written.ok()) return written.status();
    if (absl::Status status = Push(**popped, *written); !status.ok()) return status;
  }
}

absl::StatusOr<bool> Virtqueue::TakeInterrupt() {
  if (signalled_ == next_used_ || closed_.load(std::memory_order_relaxed)) return false;
  const uint16_t before = std::exchange(signalled_, next_used_);
  // The driver says what it wants and then looks at the used index again, so that it is asked after that was written.
  // Pairs with the barrier in virtqueue_enable_cb_prepare of Linux.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!layout_.event_index) {
    const auto flags = Load<uint16_t>(At(layout_.available, kAvailableFlags));
    if (!flags.ok()) return flags.status();
    return (*flags & VRING_AVAIL_F_NO_INTERRUPT) == 0;
  }
  const auto event = Load<uint16_t>(At(layout_.available, kAvailableRing + layout_.size * sizeof(uint16_t)));
  if (!event.ok()) return event.status();
  return vring_need_event(*event, next_used_, before) != 0;
}

}  // namespace quire
