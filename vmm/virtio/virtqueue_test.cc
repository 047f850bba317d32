#include "vmm/virtio/virtqueue.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/test_queue.h"

namespace quire {
namespace {

constexpr uint16_t kSize = 8;
constexpr Gpa kBuffer(0x10000);
constexpr Gpa kTable(0x18000);
constexpr uint64_t kLast = std::numeric_limits<uint64_t>::max();

Segment At(Gpa address, uint64_t size) { return {.address = address, .size = ByteCount::Bytes(size)}; }

struct VirtqueueTest : testing::Test {
  explicit VirtqueueTest(bool event_index = false) {
    VirtqueueLayout layout = driver.layout();
    layout.indirect = true;
    layout.event_index = event_index;
    queue.emplace(memory, layout);
  }
  // The next chain, which must be there.
  Chain Pop() {
    absl::StatusOr<std::optional<Chain>> chain = queue->Pop();
    EXPECT_TRUE(chain.ok()) << chain.status();
    EXPECT_TRUE(chain.ok() && chain->has_value());
    return **chain;
  }
  bool Empty() {
    const absl::StatusOr<std::optional<Chain>> chain = queue->Pop();
    return chain.ok() && !chain->has_value();
  }
  // What is wrong with the ring.
  std::string Wrong() {
    const absl::StatusOr<std::optional<Chain>> chain = queue->Pop();
    return chain.ok() ? "nothing" : std::string(chain.status().message());
  }

  FakeDeviceMemory memory{ByteCount::MiB(1)};
  TestQueue driver{memory, Gpa(0), kSize};
  std::optional<Virtqueue> queue;
};

TEST_F(VirtqueueTest, PopsWhatTheDriverHasMadeAvailable) {
  EXPECT_TRUE(Empty());
  const uint16_t head = driver.Add({{.address = kBuffer, .size = 3},
                                    {.address = kBuffer + ByteCount::Bytes(100), .size = 4},
                                    {.address = kBuffer, .size = 5, .writable = true}});
  const Chain chain = Pop();
  EXPECT_EQ(chain.head(), head);
  EXPECT_EQ(chain.readable(), (std::vector<Segment>{At(kBuffer, 3), At(kBuffer + ByteCount::Bytes(100), 4)}));
  EXPECT_EQ(chain.writable(), (std::vector<Segment>{At(kBuffer, 5)}));
  EXPECT_EQ(chain.readable_size(), ByteCount::Bytes(7));
  EXPECT_EQ(chain.writable_size(), ByteCount::Bytes(5));
  EXPECT_TRUE(Empty());
}

TEST_F(VirtqueueTest, PushesInAnyOrder) {
  const uint16_t first = driver.Add({{.address = kBuffer, .size = 8, .writable = true}});
  const uint16_t second = driver.Add({{.address = kBuffer, .size = 8, .writable = true}});
  const Chain one = Pop();
  const Chain two = Pop();
  EXPECT_TRUE(queue->Push(two, ByteCount::Bytes(6)).ok());
  EXPECT_TRUE(queue->Push(one, ByteCount()).ok());
  std::optional<TestQueue::Used> used = driver.TakeUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->id, second);
  EXPECT_EQ(used->length, 6);
  used = driver.TakeUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->id, first);
  EXPECT_EQ(used->length, 0);
}

// Indices run through all of 16 bits, rings are much shorter.
TEST_F(VirtqueueTest, GoesRoundTheRing) {
  for (int i = 0; i < (1 << 16) + 3; ++i) {
    const uint16_t head = driver.Add({{.address = kBuffer, .size = 1}});
    const Chain chain = Pop();
    ASSERT_EQ(chain.head(), head);
    ASSERT_TRUE(queue->Push(chain, ByteCount()).ok());
    ASSERT_EQ(driver.TakeUsed()->id, head);
  }
}

TEST_F(VirtqueueTest, CopiesAcrossSegments) {
  StoreString(memory, kBuffer, "abc");
  StoreString(memory, kBuffer + ByteCount::Bytes(100), "defg");
  driver.Add({{.address = kBuffer, .size = 3},
              {.address = kBuffer + ByteCount::Bytes(100), .size = 4},
              {.address = kBuffer + ByteCount::Bytes(200), .size = 2, .writable = true},
              {.address = kBuffer + ByteCount::Bytes(300), .size = 9, .writable = true}});
  const Chain chain = Pop();
  const absl::StatusOr<std::vector<std::byte>> all = chain.ReadAll(ByteCount::Bytes(7));
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(all->data()), all->size()), "abcdefg");
  std::string some(3, 0);
  EXPECT_TRUE(chain.Read(ByteCount::Bytes(2), absl::MakeSpan(reinterpret_cast<std::byte*>(some.data()), 3)).ok());
  EXPECT_EQ(some, "cde");
  EXPECT_TRUE(chain.Write(ByteCount::Bytes(1), {reinterpret_cast<const std::byte*>("xyz"), 3}).ok());
  EXPECT_EQ(LoadString(memory, kBuffer + ByteCount::Bytes(201), 1), "x");
  EXPECT_EQ(LoadString(memory, kBuffer + ByteCount::Bytes(300), 2), "yz");
}

TEST_F(VirtqueueTest, CopiesNothingThatIsNotThere) {
  driver.Add({{.address = kBuffer, .size = 3}, {.address = kBuffer, .size = 5, .writable = true}});
  const Chain chain = Pop();
  std::byte bytes[8] = {};
  EXPECT_TRUE(absl::IsOutOfRange(chain.Read(ByteCount::Bytes(1), absl::MakeSpan(bytes, 3))));
  EXPECT_TRUE(absl::IsOutOfRange(chain.Read(ByteCount::Bytes(kLast), absl::MakeSpan(bytes, 2))));
  EXPECT_TRUE(absl::IsOutOfRange(chain.Write(ByteCount(), absl::MakeSpan(bytes, 6))));
  EXPECT_TRUE(absl::IsResourceExhausted(chain.ReadAll(ByteCount::Bytes(2)).status()));
}

TEST_F(VirtqueueTest, LeavesOutBuffersOfNoSize) {
  driver.Add({{.address = kBuffer, .size = 0}, {.address = kBuffer, .size = 2}, {.address = kBuffer, .size = 0}});
  EXPECT_EQ(Pop().readable(), std::vector<Segment>{At(kBuffer, 2)});
}

TEST_F(VirtqueueTest, FollowsAnIndirectTable) {
  driver.AddIndirect(kTable, {{.address = kBuffer, .size = 3}, {.address = kBuffer, .size = 5, .writable = true}});
  const Chain chain = Pop();
  EXPECT_EQ(chain.readable(), std::vector<Segment>{At(kBuffer, 3)});
  EXPECT_EQ(chain.writable(), std::vector<Segment>{At(kBuffer, 5)});
}

// As Linux makes them.
TEST_F(VirtqueueTest, FollowsAnIndirectTableLongerThanTheQueue) {
  driver.AddIndirect(kTable, std::vector<TestQueue::Buffer>(100, {.address = kBuffer, .size = 2}));
  EXPECT_EQ(Pop().readable().size(), 100);
}

TEST_F(VirtqueueTest, FollowsAnIndirectTableAtTheEndOfAChain) {
  driver.AddIndirect(kTable, {{.address = kBuffer, .size = 3}});
  Pop();
  driver.SetDescriptor(5, {.addr = kBuffer.value(), .len = 1, .flags = VRING_DESC_F_NEXT, .next = 0});
  driver.Offer(5);
  EXPECT_EQ(Pop().readable(), (std::vector<Segment>{At(kBuffer, 1), At(kBuffer, 3)}));
}

struct BadRing : VirtqueueTest {
  void Offer(vring_desc descriptor) {
    driver.SetDescriptor(0, descriptor);
    driver.Offer(0);
  }
};

TEST_F(BadRing, HeadOutOfTheTable) {
  driver.Offer(kSize);
  EXPECT_EQ(Wrong(), "a chain names descriptor 8 in a table of 8");
}

TEST_F(BadRing, NextOutOfTheTable) {
  Offer({.addr = kBuffer.value(), .len = 1, .flags = VRING_DESC_F_NEXT, .next = 0xffff});
  EXPECT_EQ(Wrong(), "a chain names descriptor 65535 in a table of 8");
}

TEST_F(BadRing, IndexThatJumps) {
  driver.SetAvailableIndex(kSize + 1);
  EXPECT_EQ(Wrong(), "the available ring's index went from 0 to 9 in a queue of 8");
}

TEST_F(BadRing, IndexThatGoesBack) {
  driver.Add({{.address = kBuffer, .size = 1}});
  Pop();
  driver.SetAvailableIndex(0);
  EXPECT_EQ(Wrong(), "the available ring's index went from 1 to 0 in a queue of 8");
}

TEST_F(BadRing, MoreChainsThanDescriptors) {
  for (int i = 0; i < kSize; ++i) {
    driver.Add({{.address = kBuffer, .size = 1}});
    Pop();
  }
  driver.Offer(0);
  EXPECT_EQ(Wrong(), "the available ring names more chains than there are descriptors");
}

TEST_F(BadRing, Circle) {
  Offer({.addr = kBuffer.value(), .len = 1, .flags = VRING_DESC_F_NEXT, .next = 0});
  EXPECT_EQ(Wrong(), "a chain of descriptors goes in circles");
}

TEST_F(BadRing, CircleInAnIndirectTable) {
  Store(memory, kTable, vring_desc{.addr = kBuffer.value(), .len = 1, .flags = VRING_DESC_F_NEXT, .next = 0});
  Offer({.addr = kTable.value(), .len = sizeof(vring_desc), .flags = VRING_DESC_F_INDIRECT, .next = 0});
  EXPECT_EQ(Wrong(), "a chain of descriptors goes in circles");
}

TEST_F(BadRing, IndirectTableThatNamesAnother) {
  Store(memory, kTable,
        vring_desc{.addr = kTable.value(), .len = sizeof(vring_desc), .flags = VRING_DESC_F_INDIRECT, .next = 0});
  Offer({.addr = kTable.value(), .len = sizeof(vring_desc), .flags = VRING_DESC_F_INDIRECT, .next = 0});
  EXPECT_EQ(Wrong(), "an indirect table names another one");
}

TEST_F(BadRing, ChainThatGoesOnAfterAnIndirectTable) {
  Offer({.addr = kTable.value(), .len = 16, .flags = VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, .next = 1});
  EXPECT_EQ(Wrong(), "a chain goes on after an indirect descriptor");
}

TEST_F(BadRing, IndirectTableOfNoPossibleSize) {
  for (const uint32_t size : {0u, 15u, 17u, 16 * (Virtqueue::kMostIndirect + 1), 0xfffffff0u}) {
    Offer({.addr = kTable.value(), .len = size, .flags = VRING_DESC_F_INDIRECT, .next = 0});
    EXPECT_EQ(Wrong(), absl::StrCat("an indirect table cannot have ", size, " bytes at 0x18000"));
  }
}

TEST_F(BadRing, IndirectTableThatIsNotMemory) {
  for (const uint64_t address : {uint64_t{1} << 20, uint64_t{1} << 63, kLast - 31}) {
    Offer({.addr = address, .len = 32, .flags = VRING_DESC_F_INDIRECT, .next = 0});
    EXPECT_EQ(Wrong(), "that is not memory of the guest");
  }
  Offer({.addr = kLast, .len = 32, .flags = VRING_DESC_F_INDIRECT, .next = 0});
  EXPECT_EQ(Wrong(), "an indirect table cannot have 32 bytes at 0xffffffffffffffff");
}

TEST_F(BadRing, BufferThatRunsOverTheEndOfAddresses) {
  Offer({.addr = kLast, .len = 2, .flags = 0, .next = 0});
  EXPECT_EQ(Wrong(), "a descriptor's buffer runs over the end of all addresses");
}

TEST_F(BadRing, ReadableAfterWritable) {
  driver.Add({{.address = kBuffer, .size = 1, .writable = true}, {.address = kBuffer, .size = 1}});
  EXPECT_EQ(Wrong(), "a chain goes back from buffers to write to buffers to read");
}

TEST_F(BadRing, ChainOfMoreThan4GiB) {
  driver.Add({{.address = kBuffer, .size = 0xffffffff}, {.address = kBuffer, .size = 2}});
  EXPECT_EQ(Wrong(), "a chain has more than 4 GiB");
}

// A buffer that is not memory is the business of whoever copies it.
TEST_F(BadRing, BufferThatIsNotMemory) {
  Offer({.addr = uint64_t{1} << 20, .len = 1, .flags = 0, .next = 0});
  const Chain chain = Pop();
  EXPECT_TRUE(absl::IsOutOfRange(chain.ReadAll(ByteCount::Bytes(1)).status()));
}

TEST_F(BadRing, QueueThatIsNotMemory) {
  VirtqueueLayout layout = driver.layout();
  layout.available = Gpa(uint64_t{1} << 20);
  Virtqueue elsewhere(memory, layout);
  EXPECT_TRUE(absl::IsOutOfRange(elsewhere.Pop().status()));
}

TEST(VirtqueueLayout, RefusesWhatNoQueueCanBe) {
  const auto check = [](uint16_t size, uint64_t descriptors, uint64_t available, uint64_t used) {
    return Virtqueue::Check(
        {.size = size, .descriptors = Gpa(descriptors), .available = Gpa(available), .used = Gpa(used)});
  };
  EXPECT_TRUE(check(8, 16, 2, 4).ok());
  EXPECT_TRUE(check(32768, 0, 0, 0).ok());
  EXPECT_EQ(check(0, 0, 0, 0).message(), "a queue cannot have 0 descriptors");
  EXPECT_EQ(check(12, 0, 0, 0).message(), "a queue cannot have 12 descriptors");
  EXPECT_EQ(check(8, 24, 0, 0).message(), "a queue's descriptors cannot be at 0x18");
  EXPECT_EQ(check(8, 0, 3, 0).message(), "a queue's available ring cannot be at 0x3");
  EXPECT_EQ(check(8, 0, 0, 2).message(), "a queue's used ring cannot be at 0x2");
  EXPECT_TRUE(check(8, kLast - 127, 0, 0).ok());
  EXPECT_EQ(check(8, kLast - 111, 0, 0).message(), "a queue's descriptors cannot be at 0xffffffffffffff90");
}

TEST_F(VirtqueueTest, InterruptsForWhatHasBeenPushedSinceTheLastOne) {
  EXPECT_FALSE(*queue->TakeInterrupt());
  driver.Add({{.address = kBuffer, .size = 1}});
  EXPECT_TRUE(queue->Push(Pop(), ByteCount()).ok());
  EXPECT_TRUE(*queue->TakeInterrupt());
  EXPECT_FALSE(*queue->TakeInterrupt());
  driver.SetAvailableFlags(VRING_AVAIL_F_NO_INTERRUPT);
  driver.Add({{.address = kBuffer, .size = 1}});
  EXPECT_TRUE(queue->Push(Pop(), ByteCount()).ok());
  EXPECT_FALSE(*queue->TakeInterrupt());
}

TEST_F(VirtqueueTest, LooksEmptyOnceClosed) {
  driver.Add({{.address = kBuffer, .size = 1}});
  const Chain chain = Pop();
  driver.Add({{.address = kBuffer, .size = 1}});
  queue->Close();
  EXPECT_TRUE(Empty());
  EXPECT_TRUE(queue->Push(chain, ByteCount()).ok());
  EXPECT_EQ(driver.UsedIndex(), 0) << "the memory may be something else by now";
}

struct EventIndexTest : VirtqueueTest {
  EventIndexTest() : VirtqueueTest(true) {}
};

TEST_F(EventIndexTest, AsksToBeNotifiedWhenItFindsTheQueueEmpty) {
  driver.Add({{.address = kBuffer, .size = 1}});
  driver.Add({{.address = kBuffer, .size = 1}});
  Pop();
  Pop();
  EXPECT_EQ(driver.AvailableEvent(), 0) << "there may be more";
  EXPECT_TRUE(Empty());
  EXPECT_EQ(driver.AvailableEvent(), 2);
}

TEST_F(EventIndexTest, InterruptsWhenTheDriverWantsOne) {
  driver.SetUsedEvent(1);  // after the second
  driver.Add({{.address = kBuffer, .size = 1}});
  EXPECT_TRUE(queue->Push(Pop(), ByteCount()).ok());
  EXPECT_FALSE(*queue->TakeInterrupt());
  driver.Add({{.address = kBuffer, .size = 1}});
  EXPECT_TRUE(queue->Push(Pop(), ByteCount()).ok());
  EXPECT_TRUE(*queue->TakeInterrupt());
  driver.Add({{.address = kBuffer, .size = 1}});
  EXPECT_TRUE(queue->Push(Pop(), ByteCount()).ok());
  EXPECT_FALSE(*queue->TakeInterrupt());
}

}  // namespace
}  // namespace quire
