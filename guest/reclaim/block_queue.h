// A first-in, first-out queue of blocks, linked through the blocks themselves.
#ifndef QUIRE_GUEST_RECLAIM_BLOCK_QUEUE_H_
#define QUIRE_GUEST_RECLAIM_BLOCK_QUEUE_H_

#include <cstddef>

#include "base/check.h"
#include "guest/memory_map.h"

namespace quire {

// Not thread safe. A block is on one queue at a time; no memory is allocated.
class BlockQueue {
 public:
  BlockQueue() = default;
  BlockQueue(const BlockQueue&) = delete;
  BlockQueue& operator=(const BlockQueue&) = delete;
  ~BlockQueue() { QUIRE_CHECK(empty()); }

  bool empty() const { return head_ == nullptr; }
  size_t size() const { return size_; }

  void PushBack(Block& block) {
    block.previous = tail_;
    block.next = nullptr;
    (tail_ != nullptr ? tail_->next : head_) = &block;
    tail_ = &block;
    ++size_;
  }

  // The oldest block, or null.
  const Block* front() const { return head_; }
  Block* PopFront() {
    Block* const block = head_;
    if (block != nullptr) Remove(*block);
    return block;
  }

  void Remove(Block& block) {
    (block.previous != nullptr ? block.previous->next : head_) = block.next;
    (block.next != nullptr ? block.next->previous : tail_) = block.previous;
    block.next = block.previous = nullptr;
    --size_;
  }

  template <class Predicate>
  void RemoveIf(Predicate predicate) {
    for (Block* block = head_; block != nullptr;) {
      Block* const next = block->next;
      if (predicate(*block)) Remove(*block);
      block = next;
    }
  }

 private:
  Block* head_ = nullptr;
  Block* tail_ = nullptr;
  size_t size_ = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_RECLAIM_BLOCK_QUEUE_H_
