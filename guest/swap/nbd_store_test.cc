#include "guest/swap/nbd_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/nbd_library.h"
#include "guest/swap/testing/fake_nbd_server.h"
#include "guest/swap/testing/nbdkit.h"
#include "guest/testing/eventually.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using Transfer = BackingStore::Transfer;
using Transport = Nbdkit::Transport;

constexpr ByteCount kSize = ByteCount::MiB(8);
constexpr char kSizeArgument[] = "size=8M";

// Memory as the interface wants it: aligned.
class Pages {
 public:
  explicit Pages(size_t pages) : pages_(pages) {}

  absl::Span<std::byte> bytes() { return {pages_[0].bytes.data(), pages_.size() * kPageSize}; }
  absl::Span<std::byte> bytes(size_t first, size_t count) {
    return bytes().subspan(first * kPageSize, count * kPageSize);
  }
  void Fill(uint64_t seed) {
    std::mt19937_64 random(seed);
    for (size_t i = 0; i < bytes().size(); i += sizeof(uint64_t)) {
      const uint64_t word = random();
      memcpy(bytes().data() + i, &word, sizeof(word));
    }
  }
  friend bool operator==(const Pages& a, const Pages& b) {
    return a.pages_.size() == b.pages_.size() &&
           memcmp(a.pages_.data(), b.pages_.data(), a.pages_.size() * kPageSize) == 0;
  }

 private:
  struct alignas(kPageSize) Page {
    std::array<std::byte, kPageSize> bytes = {};
  };
  std::vector<Page> pages_;
};

ByteCount PageOffset(uint64_t page) { return ByteCount::Bytes(page * kPageSize); }

absl::Status WriteAt(BackingStore& store, uint64_t page, Pages& pages) {
  const Transfer transfer = {.offset = PageOffset(page), .bytes = pages.bytes()};
  return store.Write(absl::MakeConstSpan(&transfer, 1));
}

absl::Status ReadAt(BackingStore& store, uint64_t page, Pages& pages) {
  const Transfer transfer = {.offset = PageOffset(page), .bytes = pages.bytes()};
  return store.Read(absl::MakeConstSpan(&transfer, 1), BackingStore::IfAway::kWait);
}

// Each page a transfer of its own; neighbours in memory are not neighbours in the store, so that none go as one.
std::vector<Transfer> Scattered(Pages& pages, size_t count) {
  std::vector<Transfer> transfers;
  for (size_t i = 0; i < count; ++i) transfers.push_back({.offset = PageOffset(2 * i), .bytes = pages.bytes(i, 1)});
  return transfers;
}

// For a server that does not come back.
NbdStoreOptions GivingUpSoon(const std::string& uri) { return {.uri = uri, .retry_for = absl::Milliseconds(200)}; }

// For a server that does not answer. On a busy machine this may be too short for one that does.
NbdStoreOptions Impatient(const std::string& uri) {
  return {.uri = uri, .retry_for = absl::Milliseconds(200), .request_timeout = absl::Milliseconds(200)};
}

std::unique_ptr<NbdStore> OpenOrDie(const NbdStoreOptions& options) {
  absl::StatusOr<std::unique_ptr<NbdStore>> store = NbdStore::Open(options);
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

// However long the server takes to greet.
std::unique_ptr<NbdStore> OpenEventually(const NbdStoreOptions& options) {
  absl::StatusOr<std::unique_ptr<NbdStore>> store;
  EXPECT_TRUE(Eventually([&] { return (store = NbdStore::Open(options)).ok(); })) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

// ---------------------------------------------------------------------------------------------------------------------
// With nbdkit
// ---------------------------------------------------------------------------------------------------------------------

class NbdStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = Nbdkit::WhyMissing(); !why.empty()) GTEST_SKIP() << "SKIPPED: " << why;
    if (auto library = LoadNbdLibrary(); !library.ok()) GTEST_SKIP() << "SKIPPED: " << library.status();
  }

  void Start(std::vector<std::string> arguments, Transport transport = Transport::kUnix) {
    absl::StatusOr<std::unique_ptr<Nbdkit>> server = Nbdkit::Start(transport, std::move(arguments));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void StartMemory() { Start({"memory", kSizeArgument}); }

  // Serves a file, which survives the server.
  std::vector<std::string> FileServer() {
    const std::string file = server_->directory() + "/content";
    std::ofstream(file, std::ios::app).close();
    EXPECT_EQ(truncate(file.c_str(), kSize.in_bytes()), 0);
    return {"--filter=delay", "file", file, "rdelay=5ms", "wdelay=5ms"};
  }

  // Waits until the store has noticed that its server is gone: writes, unlike reads, do not wait then.
  void AwaitAway(NbdStore& store) {
    Pages page(1);
    ASSERT_TRUE(Eventually([&] { return absl::IsUnavailable(WriteAt(store, 0, page)); }));
  }

  std::unique_ptr<Nbdkit> server_;
};

class NbdStoreTransportTest : public NbdStoreTest, public ::testing::WithParamInterface<Transport> {};

INSTANTIATE_TEST_SUITE_P(Transports, NbdStoreTransportTest, ::testing::Values(Transport::kUnix, Transport::kTcp),
                         [](const auto& info) { return info.param == Transport::kUnix ? "Unix" : "Tcp"; });

// Writes and reads random ranges of a part of the store that is one thread's own; `model` is what has to be there.
void Exercise(NbdStore& store, uint64_t first_page, uint64_t pages, uint64_t seed) {
  std::mt19937_64 random(seed);
  Pages model(pages);
  ASSERT_TRUE(WriteAt(store, first_page, model).ok());
  for (int i = 0; i < 60; ++i) {
    // Two ranges that do not overlap: one in each half.
    std::vector<Transfer> transfers;
    Pages content(pages);
    content.Fill(random());
    for (uint64_t half : {uint64_t{0}, pages / 2}) {
      const uint64_t begin = half + random() % (pages / 2);
      const uint64_t count = 1 + random() % (half + pages / 2 - begin);
      transfers.push_back({.offset = PageOffset(first_page + begin), .bytes = content.bytes(begin, count)});
    }
    const bool writes = random() % 2 == 0;
    const absl::Status status = writes ? store.Write(transfers) : store.Read(transfers, BackingStore::IfAway::kWait);
    ASSERT_TRUE(status.ok()) << status;
    for (const Transfer& transfer : transfers) {
      std::byte* const there = model.bytes().data() + (transfer.offset - PageOffset(first_page)).in_bytes();
      if (writes) memcpy(there, transfer.bytes.data(), transfer.bytes.size());
      ASSERT_EQ(memcmp(there, transfer.bytes.data(), transfer.bytes.size()), 0);
    }
  }
}

TEST_P(NbdStoreTransportTest, ReadsWhatWasWritten) {
  ASSERT_NO_FATAL_FAILURE(Start({"memory", kSizeArgument}, GetParam()));
  auto store = OpenOrDie({.uri = server_->uri()});
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(store->name(), "nbd");
  EXPECT_EQ(store->size(), kSize);
  EXPECT_THAT(store->description(), HasSubstr(server_->uri()));
  constexpr uint64_t kThreads = 4;
  constexpr uint64_t kEach = 256;
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&store, i] { Exercise(*store, i * kEach, kEach, i); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store->counters().links_lost.value(), 0);
}

TEST_F(NbdStoreTest, SpeaksTls) {
  ASSERT_NO_FATAL_FAILURE(StartMemory());
  const std::string keys = server_->directory() + "/keys";
  std::ofstream(keys) << "quire:0123456789abcdef0123456789abcdef\n";
  ASSERT_TRUE(server_->Restart({"--tls=require", "--tls-psk=" + keys, "memory", kSizeArgument}).ok());
  auto store =
      OpenOrDie({.uri = absl::StrCat("nbds+unix://quire@/?socket=", server_->socket(), "&tls-psk-file=", keys)});
  ASSERT_NE(store, nullptr);
  Exercise(*store, 0, 256, 1);
}

TEST_F(NbdStoreTest, UsesSeveralConnectionsIfTheServerLetsIt) {
  ASSERT_NO_FATAL_FAILURE(StartMemory());
  EXPECT_EQ(OpenOrDie({.uri = server_->uri()})->connections(), 4);
  EXPECT_EQ(OpenOrDie({.uri = server_->uri(), .connections = 2})->connections(), 2);
  ASSERT_TRUE(server_->Restart({"--filter=multi-conn", "memory", kSizeArgument, "multi-conn-mode=disable"}).ok());
  EXPECT_EQ(OpenOrDie({.uri = server_->uri()})->connections(), 1);
}

TEST_F(NbdStoreTest, PutsTogetherWhatIsAdjacentAndCutsWhatIsTooLarge) {
  ASSERT_NO_FATAL_FAILURE(Start({"--filter=blocksize-policy", "memory", kSizeArgument, "blocksize-minimum=512",
                                 "blocksize-preferred=4K", "blocksize-maximum=64K", "blocksize-error-policy=error"}));
  auto store = OpenOrDie({.uri = server_->uri()});
  ASSERT_NE(store, nullptr);
  Pages pages(64);
  pages.Fill(1);
  const std::vector<Transfer> adjacent = {{.offset = PageOffset(4), .bytes = pages.bytes(0, 3)},
                                          {.offset = PageOffset(7), .bytes = pages.bytes(3, 61)}};
  ASSERT_TRUE(store->Write(adjacent).ok());
  EXPECT_EQ(store->counters().write_requests.value(), 4);
  EXPECT_EQ(store->counters().bytes_written.value(), 64 * kPageSize);
  Pages back(64);
  ASSERT_TRUE(ReadAt(*store, 4, back).ok());
  EXPECT_TRUE(back == pages);

  EXPECT_TRUE(store->Write(Scattered(pages, 3)).ok());
  EXPECT_EQ(store->counters().write_requests.value(), 4 + 3);
  EXPECT_TRUE(store->Write({}).ok());
}

// The server holds each request for a while. One after the other takes at least that for each.
TEST_F(NbdStoreTest, HasSeveralRequestsUnderWay) {
  constexpr size_t kRequests = 16;
  ASSERT_NO_FATAL_FAILURE(Start({"--filter=delay", "memory", kSizeArgument, "rdelay=50ms"}));
  for (int connections : {1, 4}) {
    auto store = OpenOrDie({.uri = server_->uri(), .connections = connections});
    ASSERT_NE(store, nullptr);
    Pages pages(kRequests);
    pages.Fill(1);
    ASSERT_TRUE(store->Write(Scattered(pages, kRequests)).ok());
    Pages back(kRequests);
    const std::vector<Transfer> reads = Scattered(back, kRequests);
    const absl::Time begin = absl::Now();
    ASSERT_TRUE(store->Read(reads, BackingStore::IfAway::kWait).ok());
    const absl::Time middle = absl::Now();
    EXPECT_TRUE(back == pages);
    for (const Transfer& read : reads) ASSERT_TRUE(store->Read({&read, 1}, BackingStore::IfAway::kWait).ok());
    EXPECT_LT(middle - begin, (absl::Now() - middle) / 2);
  }
}

TEST_F(NbdStoreTest, SaysWhatTheServerAnswered) {
  struct Case {
    std::vector<std::string> arguments;
    bool write;
    absl::StatusCode code;
  };
  for (const Case& c : {Case{{"error-pread=EIO"}, false, absl::StatusCode::kDataLoss},
                        Case{{"error-pwrite=EIO"}, true, absl::StatusCode::kDataLoss},
                        Case{{"error-pwrite=ENOSPC"}, true, absl::StatusCode::kResourceExhausted},
                        Case{{"error-pwrite=EPERM"}, true, absl::StatusCode::kDataLoss}}) {
    std::vector<std::string> arguments = {"--filter=error", "memory", kSizeArgument};
    const std::string& what = c.arguments[0];
    arguments.push_back(what);
    arguments.push_back(absl::StrCat(what.substr(0, what.find('=')), "-rate=100%"));
    ASSERT_NO_FATAL_FAILURE(Start(arguments));
    auto store = OpenOrDie({.uri = server_->uri()});
    ASSERT_NE(store, nullptr);
    Pages pages(8);
    const absl::Status status =
        c.write ? store->Write(Scattered(pages, 8)) : store->Read(Scattered(pages, 8), BackingStore::IfAway::kWait);
    EXPECT_EQ(status.code(), c.code) << status;
    EXPECT_THAT(status.message(), HasSubstr(server_->uri()));
    // The other direction works, and the link is up.
    EXPECT_TRUE(
        (c.write ? store->Read(Scattered(pages, 8), BackingStore::IfAway::kWait) : store->Write(Scattered(pages, 8)))
            .ok());
    EXPECT_EQ(store->counters().links_lost.value(), 0);
    EXPECT_EQ(store->counters().reads_refused_error.value() + store->counters().writes_refused_error.value() +
                  store->counters().writes_refused_no_room.value(),
              1);
  }
}

// Threads write and check pages while the server dies and comes back, again and again.
TEST_F(NbdStoreTest, LosesNothingWhenTheServerIsKilled) {
  ASSERT_NO_FATAL_FAILURE(StartMemory());
  ASSERT_TRUE(server_->Restart(FileServer()).ok());
  auto store = OpenOrDie({.uri = server_->uri(), .retry_for = absl::Hours(1)});
  ASSERT_NE(store, nullptr);

  constexpr uint64_t kThreads = 4;
  constexpr uint64_t kPages = 16;
  std::atomic<bool> stop = false;
  std::array<std::atomic<uint64_t>, kThreads> rounds = {};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t round = 0; !stop; ++round) {
        Pages content(kPages);
        content.Fill(t << 32 | round);
        absl::Status written;
        do {
          written = WriteAt(*store, t * kPages, content);
          if (absl::IsUnavailable(written)) absl::SleepFor(absl::Milliseconds(1));
        } while (absl::IsUnavailable(written));
        ASSERT_TRUE(written.ok()) << written;
        for (int i = 0; i < 3; ++i) {
          Pages back(kPages);
          const absl::Status read = ReadAt(*store, t * kPages, back);
          ASSERT_TRUE(read.ok()) << read;
          ASSERT_TRUE(back == content) << "thread " << t << ", round " << round;
        }
        rounds[t] = round + 1;
      }
    });
  }
  const auto all_go_on = [&] {
    std::array<uint64_t, kThreads> before;
    for (uint64_t t = 0; t < kThreads; ++t) before[t] = rounds[t];
    return Eventually([&] {
      for (uint64_t t = 0; t < kThreads; ++t) {
        if (rounds[t] < before[t] + 2) return false;
      }
      return true;
    });
  };
  for (uint64_t i = 0; i < 5; ++i) {
    EXPECT_TRUE(all_go_on());
    server_->Kill();
    EXPECT_TRUE(Eventually([&] { return store->counters().links_lost.value() > i; }));
    EXPECT_TRUE(server_->Restart(FileServer()).ok());
  }
  EXPECT_TRUE(all_go_on());
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store->counters().reconnects.value(), store->counters().links_lost.value());
}

TEST_F(NbdStoreTest, ReadsWaitForTheServerAndWritesDoNot) {
  ASSERT_NO_FATAL_FAILURE(StartMemory());
  ASSERT_TRUE(server_->Restart(FileServer()).ok());
  auto store = OpenOrDie({.uri = server_->uri(), .retry_for = absl::Hours(1)});
  ASSERT_NE(store, nullptr);
  Pages content(4);
  content.Fill(1);
  ASSERT_TRUE(WriteAt(*store, 0, content).ok());
  server_->Kill();

  Pages back(4);
  absl::Notification read;
  std::thread reader([&] {
    const absl::Status status = ReadAt(*store, 0, back);
    EXPECT_TRUE(status.ok()) << status;
    read.Notify();
  });
  ASSERT_NO_FATAL_FAILURE(AwaitAway(*store));
  ASSERT_TRUE(Eventually([&] { return store->counters().reconnects_failed.value() >= 3; }));
  Pages other(4);
  const absl::Status refused = WriteAt(*store, 8, other);
  EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
  EXPECT_THAT(refused.message(), HasSubstr(server_->uri()));
  EXPECT_GE(store->counters().writes_refused_away.value(), 1);
  store->Discard(PageOffset(8), PageOffset(4));
  EXPECT_EQ(store->counters().trims_skipped.value(), 1);
  EXPECT_FALSE(read.HasBeenNotified());

  ASSERT_TRUE(server_->Restart(FileServer()).ok());
  reader.join();
  EXPECT_TRUE(back == content);
  EXPECT_TRUE(WriteAt(*store, 8, other).ok());
}

TEST_F(NbdStoreTest, GivesUpOnAServerThatDoesNotComeBack) {
  ASSERT_NO_FATAL_FAILURE(StartMemory());
  auto store = OpenOrDie(GivingUpSoon(server_->uri()));
  ASSERT_NE(store, nullptr);
  server_->Kill();
  Pages page(1);
  const absl::Time begin = absl::Now();
  const absl::Status status = ReadAt(*store, 0, page);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr(server_->uri()));
  EXPECT_THAT(status.message(), HasSubstr("200ms"));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(200));
  EXPECT_EQ(store->counters().reads_refused_away.value(), 1);
}

TEST_F(NbdStoreTest, WaitsOutAServerThatStandsStill) {
  ASSERT_NO_FATAL_FAILURE(StartMemory());
  auto store = OpenOrDie({.uri = server_->uri(),
                          .retry_for = absl::Hours(1),
                          .request_timeout = absl::Milliseconds(300),
                          .max_backoff = absl::Milliseconds(100)});
  ASSERT_NE(store, nullptr);
  server_->Freeze();
  Pages page(1);
  std::thread reader([&] {
    const absl::Status status = ReadAt(*store, 0, page);
    EXPECT_TRUE(status.ok()) << status;
  });
  EXPECT_TRUE(Eventually([&] { return store->counters().reconnects_failed.value() > 0; }));
  server_->Thaw();
  reader.join();
  EXPECT_GE(store->counters().links_lost.value(), 1);
}

TEST_F(NbdStoreTest, CancelEndsWaiting) {
  ASSERT_NO_FATAL_FAILURE(StartMemory());
  auto store = OpenOrDie({.uri = server_->uri(), .retry_for = absl::Hours(1)});
  ASSERT_NE(store, nullptr);
  server_->Kill();
  std::thread reader([&] {
    Pages page(1);
    EXPECT_TRUE(absl::IsUnavailable(ReadAt(*store, 0, page)));
  });
  ASSERT_NO_FATAL_FAILURE(AwaitAway(*store));
  store->Cancel();
  reader.join();
  Pages page(1);
  EXPECT_TRUE(absl::IsUnavailable(ReadAt(*store, 0, page)));
  EXPECT_TRUE(absl::IsUnavailable(WriteAt(*store, 0, page)));
  store->Cancel();
}

TEST_F(NbdStoreTest, CancelEndsRequestsUnderWay) {
  ASSERT_NO_FATAL_FAILURE(StartMemory());
  auto store = OpenOrDie({.uri = server_->uri(), .retry_for = absl::Hours(1), .request_timeout = absl::Hours(1)});
  ASSERT_NE(store, nullptr);
  server_->Freeze();
  std::thread reader([&] {
    Pages page(1);
    EXPECT_TRUE(absl::IsUnavailable(ReadAt(*store, 0, page)));
  });
  EXPECT_TRUE(Eventually([&] { return store->counters().read_requests.value() > 0; }));
  store->Cancel();
  reader.join();
}

TEST_F(NbdStoreTest, EndsWhileTheServerIsAway) {
  ASSERT_NO_FATAL_FAILURE(StartMemory());
  auto store = OpenOrDie({.uri = server_->uri(), .min_backoff = absl::Hours(1), .max_backoff = absl::Hours(1)});
  ASSERT_NE(store, nullptr);
  server_->Kill();
  ASSERT_NO_FATAL_FAILURE(AwaitAway(*store));
}

TEST_F(NbdStoreTest, FailsWhenTheExportCameBackSmaller) {
  ASSERT_NO_FATAL_FAILURE(StartMemory());
  auto store = OpenOrDie({.uri = server_->uri(), .retry_for = absl::Hours(1)});
  ASSERT_NE(store, nullptr);
  server_->Kill();
  ASSERT_TRUE(server_->Restart({"memory", "size=4M"}).ok());
  Pages page(1);
  const absl::Status status = ReadAt(*store, 0, page);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("4194304"));
  EXPECT_TRUE(absl::IsDataLoss(WriteAt(*store, 0, page)));
}

TEST_F(NbdStoreTest, TrimsAndWritesOverIt) {
  ASSERT_NO_FATAL_FAILURE(Start({"--filter=delay", "memory", kSizeArgument, "delay-trim=20ms"}));
  auto store = OpenOrDie({.uri = server_->uri()});
  ASSERT_NE(store, nullptr);
  Pages content(32);
  Pages zero(32);
  Pages back(32);
  content.Fill(1);
  ASSERT_TRUE(WriteAt(*store, 0, content).ok());
  store->Discard(PageOffset(0), PageOffset(32));
  EXPECT_EQ(store->counters().trim_requests.value(), 1);
  EXPECT_TRUE(Eventually([&] { return ReadAt(*store, 0, back).ok() && back == zero; }));
  // The trim is still under way when the write comes, and must not take away what it writes.
  for (uint64_t i = 0; i < 10; ++i) {
    store->Discard(PageOffset(0), PageOffset(32));
    content.Fill(i);
    ASSERT_TRUE(WriteAt(*store, 0, content).ok());
    ASSERT_TRUE(Eventually([&] { return store->counters().trims_done.value() == i + 2; }));
    ASSERT_TRUE(ReadAt(*store, 0, back).ok());
    ASSERT_TRUE(back == content) << i;
  }
  EXPECT_EQ(store->counters().trims_failed.value(), 0);
}

TEST_F(NbdStoreTest, TrimsThatFailAreCounted) {
  ASSERT_NO_FATAL_FAILURE(Start({"--filter=error", "memory", kSizeArgument, "error-trim=EIO", "error-trim-rate=100%"}));
  auto store = OpenOrDie({.uri = server_->uri()});
  ASSERT_NE(store, nullptr);
  store->Discard(PageOffset(0), PageOffset(32));
  EXPECT_TRUE(Eventually([&] { return store->counters().trims_failed.value() == 1; }));
}

void ExpectRefused(const std::string& uri, absl::StatusCode code, const std::string& message) {
  absl::StatusOr<std::unique_ptr<NbdStore>> store = NbdStore::Open({.uri = uri});
  EXPECT_EQ(store.status().code(), code) << store.status();
  EXPECT_THAT(store.status().message(), HasSubstr(message));
  EXPECT_THAT(store.status().message(), HasSubstr(uri));
}

TEST_F(NbdStoreTest, RefusesExportsOfNoUse) {
  ASSERT_NO_FATAL_FAILURE(StartMemory());
  ASSERT_TRUE(server_->Restart({"-r", "memory", kSizeArgument}).ok());
  ExpectRefused(server_->uri(), absl::StatusCode::kFailedPrecondition, "read-only");
  ASSERT_TRUE(server_->Restart({"memory", "size=1M"}).ok());
  ExpectRefused(server_->uri(), absl::StatusCode::kFailedPrecondition, "1048576 bytes");
  ASSERT_TRUE(server_
                  ->Restart({"--filter=blocksize-policy", "memory", kSizeArgument, "blocksize-minimum=8K",
                             "blocksize-preferred=8K"})
                  .ok());
  ExpectRefused(server_->uri(), absl::StatusCode::kFailedPrecondition, "8192");
}

TEST_F(NbdStoreTest, RefusesWhatIsNoServer) {
  ExpectRefused("nbd+unix:///?socket=/nonexistent/socket", absl::StatusCode::kUnavailable, "No such file");
  ExpectRefused("gopher://127.0.0.1/", absl::StatusCode::kInvalidArgument, "gopher");
  ExpectRefused("nbd://[", absl::StatusCode::kInvalidArgument, "URI");
  EXPECT_TRUE(absl::IsInvalidArgument(NbdStore::Open({}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(NbdStore::Open({.uri = "nbd://127.0.0.1/", .connections = 0}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      NbdStore::Open({.uri = "nbd://127.0.0.1/", .retry_for = absl::InfiniteDuration()}).status()));
}

// ---------------------------------------------------------------------------------------------------------------------
// With servers that mean ill
// ---------------------------------------------------------------------------------------------------------------------

constexpr uint16_t kFlags = 1 | 256;  // NBD_FLAG_HAS_FLAGS, NBD_FLAG_CAN_MULTI_CONN

class NbdStoreHostileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (auto library = LoadNbdLibrary(); !library.ok()) GTEST_SKIP() << "SKIPPED: " << library.status();
  }
};

TEST_F(NbdStoreHostileTest, BadGreetings) {
  struct Case {
    std::function<void(NbdClient)> serve;
    const char* message;
  };
  const Case cases[] = {
      {[](NbdClient) {}, ""},
      {[](NbdClient client) { client.AwaitEnd(); }, "200ms"},
      {[](NbdClient client) { client.Send("220 mail.example.org ESMTP, and a lot more after it"); }, ""},
      {[](NbdClient client) { client.Send("NBDMAGIC"), client.AwaitEnd(); }, "200ms"},
      {[](NbdClient client) { client.Send("NBDMAGIC"); }, ""},
      // Goes on for ever.
      {[](NbdClient client) {
         while (client.Send(std::string(4096, 'x')))
           ;
       },
       ""},
      {[](NbdClient client) { client.Greet(uint64_t{1} << 63, kFlags) && (client.AwaitEnd(), true); }, ""},
      {[](NbdClient client) { client.Greet(~uint64_t{0}, kFlags) && (client.AwaitEnd(), true); }, ""},
      {[](NbdClient client) { client.Greet(0, kFlags) && (client.AwaitEnd(), true); }, "0 bytes"},
      {[](NbdClient client) { client.Greet(kSize.in_bytes(), kFlags | 2) && (client.AwaitEnd(), true); }, "read-only"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(&c - cases);
    FakeNbdServer server(c.serve);
    const bool silent = absl::string_view(c.message) == "200ms";
    absl::StatusOr<std::unique_ptr<NbdStore>> store =
        NbdStore::Open(silent ? Impatient(server.uri()) : GivingUpSoon(server.uri()));
    ASSERT_FALSE(store.ok());
    EXPECT_THAT(store.status().message(), HasSubstr(server.uri()));
    EXPECT_THAT(store.status().message(), HasSubstr(c.message));
  }
}

// Greets, and does with every request what `answer` does, until that returns false.
std::function<void(NbdClient)> After(std::function<bool(NbdClient&, const NbdClient::Request&)> answer) {
  return [answer](NbdClient client) {
    NbdClient::Request request;
    if (!client.Greet(kSize.in_bytes(), kFlags)) return;
    while (client.Receive(request) && answer(client, request)) {
    }
  };
}

TEST_F(NbdStoreHostileTest, BadAnswers) {
  using Request = NbdClient::Request;
  const std::function<bool(NbdClient&, const Request&)> answers[] = {
      // Closes.
      [](NbdClient&, const Request&) { return false; },
      // Stays silent.
      [](NbdClient&, const Request&) { return true; },
      // Garbage.
      [](NbdClient& client, const Request&) { return client.Send(std::string(100, 'x')); },
      // Somebody else's cookie.
      [](NbdClient& client, const Request& request) { return client.Reply(request.cookie + 1000, 0); },
      // Closes in the middle of a reply's header, and of its data.
      [](NbdClient& client, const Request&) { return client.Send("\x67\x44\x66\x98"), false; },
      [](NbdClient& client, const Request& request) {
        return client.Reply(request.cookie, 0) && client.Send(std::string(100, 'x')) && false;
      },
      // Too little data, and silence then.
      [](NbdClient& client, const Request& request) {
        if (request.type == 1) return true;
        return client.Reply(request.cookie, 0) && client.Send(std::string(100, 'x')) && (client.AwaitEnd(), false);
      },
      // A structured reply that nobody asked for.
      [](NbdClient& client, const Request& request) { return client.Reply(request.cookie, 0, 0x668e33ef); },
      // The good-bye (NBD_ESHUTDOWN).
      [](NbdClient& client, const Request& request) { return client.Reply(request.cookie, 108); },
      // Answers twice; a read's data is missing.
      [](NbdClient& client, const Request& request) {
        return client.Reply(request.cookie, 22) && client.Reply(request.cookie, 22) && false;
      },
  };
  for (const auto& answer : answers) {
    SCOPED_TRACE(&answer - answers);
    FakeNbdServer server(After(answer));
    auto store = OpenEventually(Impatient(server.uri()));
    ASSERT_NE(store, nullptr);
    Pages pages(8);
    const absl::Status read = store->Read(Scattered(pages, 8), BackingStore::IfAway::kWait);
    EXPECT_TRUE(absl::IsUnavailable(read) || absl::IsDataLoss(read)) << read;
    EXPECT_THAT(read.message(), HasSubstr(server.uri()));
    const absl::Status written = store->Write(Scattered(pages, 8));
    EXPECT_TRUE(absl::IsUnavailable(written) || absl::IsDataLoss(written)) << written;
    store->Discard(ByteCount(), kSize);
    // The store's thread may see it after those whose requests were lost.
    EXPECT_TRUE(Eventually([&] { return store->counters().links_lost.value() > 0; }));
  }
}

TEST_F(NbdStoreHostileTest, AnErrorThatNbdDoesNotKnowIsAnError) {
  FakeNbdServer server(After(
      [](NbdClient& client, const NbdClient::Request& request) { return client.Reply(request.cookie, 0xdeadbeef); }));
  auto store = OpenOrDie({.uri = server.uri()});
  ASSERT_NE(store, nullptr);
  Pages page(1);
  EXPECT_TRUE(absl::IsDataLoss(ReadAt(*store, 0, page)));
  EXPECT_TRUE(absl::IsDataLoss(WriteAt(*store, 0, page)));
  EXPECT_EQ(store->counters().links_lost.value(), 0);
}

TEST_F(NbdStoreHostileTest, DoesNotTrimWhereTheServerCannot) {
  FakeNbdServer server(After([](NbdClient&, const NbdClient::Request&) { return true; }));
  auto store = OpenOrDie({.uri = server.uri()});
  ASSERT_NE(store, nullptr);
  store->Discard(ByteCount(), kSize);
  EXPECT_EQ(store->counters().trim_requests.value(), 0);
  EXPECT_EQ(store->counters().trims_skipped.value(), 1);
}

}  // namespace
}  // namespace quire
