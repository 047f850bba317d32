// The device's side of a split virtqueue.
//
//   descriptors  16 bytes each: address, length, flags, next     written by the driver
//   available    flags, idx, heads of chains, used_event         written by the driver
//   used         flags, idx, (head, written bytes), avail_event  written here
//
// All of it lies in the guest's memory and changes while it is read, so each field is read once, and believed only as
// far as it has been checked: what breaks a rule of the specification ends in an error, and what only wastes the
// guest's own time is bounded by the size of the queue.
//
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 2.7; <linux/virtio_ring.h>.
#ifndef QUIRE_VMM_VIRTIO_VIRTQUEUE_H_
#define QUIRE_VMM_VIRTIO_VIRTQUEUE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "mmu/device_memory.h"

namespace quire {

// A run of the guest's memory that the driver names; it may lie anywhere, but does not run over the end of addresses.
struct Segment {
  Gpa address;
  ByteCount size;  // not zero, below 4 GiB

  friend bool operator==(const Segment&, const Segment&) = default;
};

// Calls piece(segment), in order, for the bytes from `begin` to `end` of what the segments are together, for at most
// `most` at a time. The first error ends it.
absl::Status ForPieces(absl::Span<const Segment> segments, ByteCount begin, ByteCount end, ByteCount most,
                       absl::FunctionRef<absl::Status(Segment)> piece);

// One buffer that the driver has made available: first what the device reads, then what it writes. A value; the memory
// outlives it. It stands for a place in its queue for as long as that is there.
class Chain {
 public:
  // `queue` is the number of the Virtqueue that it came from.
  Chain(DeviceMemory& memory, uint16_t head, uint64_t queue) : memory_(&memory), head_(head), queue_(queue) {}

  // Whether `segment` may follow what is there, all of it being less than 4 GiB.
  // Errors: InvalidArgument, the rule that is broken.
  absl::Status Append(Segment segment, bool writable);

  uint16_t head() const { return head_; }
  uint64_t queue() const { return queue_; }
  const std::vector<Segment>& readable() const { return readable_; }
  const std::vector<Segment>& writable() const { return writable_; }
  ByteCount readable_size() const { return readable_size_; }
  ByteCount writable_size() const { return writable_size_; }

  // Copies bytes from the readable part, or into the writable part, `offset` bytes after its begin.
  // Errors: OutOfRange, that part has not so many bytes, or they are not the guest's memory; those of DeviceMemory.
  absl::Status Read(ByteCount offset, absl::Span<std::byte> to) const;
  absl::Status Write(ByteCount offset, absl::Span<const std::byte> from) const;
  // Copies all of the readable part. Errors: those of Read; ResourceExhausted, it has more than `most` bytes.
  absl::StatusOr<std::vector<std::byte>> ReadAll(ByteCount most) const;

 private:
  DeviceMemory* memory_;
  uint16_t head_;
  uint64_t queue_;
  std::vector<Segment> readable_;
  std::vector<Segment> writable_;
  ByteCount readable_size_;
  ByteCount writable_size_;
};

// Where a driver has put a queue, and what it agreed to.
struct VirtqueueLayout {
  uint16_t size = 0;  // descriptors
  Gpa descriptors = {};
  Gpa available = {};
  Gpa used = {};
  bool indirect = false;     // VIRTIO_RING_F_INDIRECT_DESC
  bool event_index = false;  // VIRTIO_RING_F_EVENT_IDX
};

// One thread at a time calls Pop, Push, ServeAll and TakeInterrupt: the device's. Any may call Close.
class Virtqueue {
 public:
  // The largest queue, by the specification.
  static constexpr uint16_t kMostDescriptors = 32768;
  // The most descriptors in an indirect table. Linux may make tables longer than the queue.
  static constexpr uint32_t kMostIndirect = 1024;

  // Errors: InvalidArgument, there cannot be a queue of that size at these addresses. Whether they are memory shows
  // when they are used.
  static absl::Status Check(const VirtqueueLayout& layout);
  // A fresh queue. `layout` is one that Check finds nothing in; the memory outlives this.
  Virtqueue(DeviceMemory& memory, const VirtqueueLayout& layout);
  Virtqueue(const Virtqueue&) = delete;
  Virtqueue& operator=(const Virtqueue&) = delete;

  // Takes the next chain that the driver has made available; nothing if there is none, and then the driver will notify
  // when there is one. Chains may be pushed in any order and at any later time, until the device is reset.
  // Errors: InvalidArgument, what is wrong with the ring; those of DeviceMemory. After an error the queue is of no use.
  absl::StatusOr<std::optional<Chain>> Pop();

  // Gives a chain back, `written` bytes of its writable part being new, from its begin. A chain of another queue, which
  // the driver has replaced by this one, is nobody's any more: that does nothing.
  // Errors: those of DeviceMemory.
  absl::Status Push(const Chain& chain, ByteCount written);

  // Pops and pushes chain after chain until there is none: `serve` says how many bytes of one's writable part are new,
  // from its begin. Errors: those of Pop and Push; that of `serve`, whose chain is not pushed.
  absl::Status ServeAll(absl::FunctionRef<absl::StatusOr<ByteCount>(const Chain&)> serve);

  // Whether the driver wants an interrupt for what has been pushed since this was last asked. The transport asks after
  // each Process. Errors: those of DeviceMemory.
  absl::StatusOr<bool> TakeInterrupt();

  // From now on the queue looks empty, so that a device at work with it comes to an end. Thread safe.
  void Close() { closed_.store(true, std::memory_order_relaxed); }

  uint16_t size() const { return layout_.size; }

 private:
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
  };
  // A table of descriptors: the queue's own, or an indirect one.
  struct Table {
    Gpa address;
    uint32_t size;  // descriptors
  };

  template <class T>
  absl::StatusOr<T> Load(Gpa address) const;
  template <class T>
  absl::Status Store(Gpa address, T value) const;

  // Whether there is a chain. Asks the driver to notify if there is none.
  absl::StatusOr<bool> Available();
  absl::StatusOr<bool> LookForMore();
  absl::StatusOr<Chain> Walk(uint16_t head) const;
  absl::StatusOr<Descriptor> LoadDescriptor(const Table& table, uint32_t index) const;
  // The table that an indirect descriptor names.
  absl::StatusOr<Table> IndirectTable(const Descriptor& descriptor) const;

  DeviceMemory& memory_;
  const VirtqueueLayout layout_;
  const uint64_t number_;         // no other has it, so that their chains are told apart
  uint16_t available_index_ = 0;  // as last read; the ring's indices run through all of 16 bits
  uint16_t next_available_ = 0;   // of the next Pop
  uint16_t next_used_ = 0;        // of the next Push
  uint16_t signalled_ = 0;        // next_used_ at the last TakeInterrupt
  uint16_t in_flight_ = 0;        // popped and not pushed
  std::atomic<bool> closed_ = false;
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_VIRTQUEUE_H_
