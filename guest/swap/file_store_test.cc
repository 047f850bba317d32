#include "guest/swap/file_store.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/swap/backing_store.h"

namespace quire {
namespace {

namespace fs = std::filesystem;

using Io = FileStoreOptions::Io;
using Transfer = BackingStore::Transfer;

constexpr ByteCount kSize = ByteCount::MiB(8);

// Whether `holds` in a child process, which may change what it is permitted.
bool InChild(const std::function<bool()>& holds) {
  const pid_t child = fork();
  if (child == 0) _exit(holds() ? 0 : 1);
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Pages of memory, aligned as transfers must be.
class Pages {
 public:
  explicit Pages(size_t count)
      : mapping_(Mapping::Map(PageCount(count).bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                     .value()) {}

  absl::Span<std::byte> At(size_t page, size_t count = 1) {
    return absl::MakeSpan(mapping_.data() + page * kPageSize, count * kPageSize);
  }
  // Fills a page with what depends on `seed`, and says whether it still holds that.
  void Fill(size_t page, uint64_t seed) { Content(seed, At(page).data()); }
  bool Holds(size_t page, uint64_t seed) {
    std::vector<std::byte> expected(kPageSize);
    Content(seed, expected.data());
    return std::memcmp(At(page).data(), expected.data(), kPageSize) == 0;
  }

 private:
  static void Content(uint64_t seed, std::byte* page) {
    if (seed == 0) return void(std::memset(page, 0, kPageSize));
    std::minstd_rand random(static_cast<uint32_t>(seed));
    for (size_t i = 0; i < kPageSize; i += 4) {
      const uint32_t word = random();
      std::memcpy(page + i, &word, 4);
    }
  }
  Mapping mapping_;
};

ByteCount Offset(size_t page) { return PageCount(page).bytes(); }

absl::Status WriteOne(FileStore& store, size_t page, absl::Span<std::byte> bytes) {
  const Transfer transfer = {.offset = Offset(page), .bytes = bytes};
  return store.Write({&transfer, 1});
}
absl::Status ReadOne(FileStore& store, size_t page, absl::Span<std::byte> bytes) {
  const Transfer transfer = {.offset = Offset(page), .bytes = bytes};
  return store.Read({&transfer, 1}, BackingStore::IfAway::kWait);
}

// Two pages that are not adjacent, the first two of `memory`: one alone does not go through io_uring.
std::array<Transfer, 2> Apart(size_t first, size_t second, Pages& memory) {
  return {Transfer{.offset = Offset(first), .bytes = memory.At(0)},
          Transfer{.offset = Offset(second), .bytes = memory.At(1)}};
}

// Writes more and more, from the beginning and the middle, until it is refused: whether for want of room, and whether
// all before is still there.
bool FillsUpAndKeepsWhatItHas(FileStore& store) {
  const size_t half = store.size().in_bytes() / kPageSize / 2;
  Pages memory(2);
  size_t written = 0;
  absl::Status status;
  for (; written < half && status.ok(); written += status.ok()) {
    memory.Fill(0, written + 1);
    memory.Fill(1, written + 1);
    status = store.Write(Apart(written, half + written, memory));
  }
  if (!absl::IsResourceExhausted(status) || store.statistics().no_room != 1 || written == 0) return false;
  for (size_t page = 0; page < written; ++page) {
    if (!store.Read(Apart(page, half + page, memory), BackingStore::IfAway::kWait).ok()) return false;
    if (!memory.Holds(0, page + 1) || !memory.Holds(1, page + 1)) return false;
  }
  return true;
}

class FileStoreTest : public ::testing::TestWithParam<Io> {
 protected:
  FileStoreTest() {
    std::string name = absl::StrCat(::testing::TempDir(), "/store-XXXXXX");
    directory_ = mkdtemp(name.data());
    path_ = absl::StrCat(directory_, "/file");
  }
  ~FileStoreTest() override { fs::remove_all(directory_); }
  void SetUp() override {
    if (GetParam() != Io::kUringOrPread) return;
    const std::unique_ptr<FileStore> probe = Open(directory_);
    if (!probe->uses_uring()) GTEST_SKIP() << probe->why_no_uring();
  }

  static std::unique_ptr<FileStore> Open(const std::string& path, ByteCount size = kSize, bool direct = true) {
    return FileStore::Open({.path = path, .size = size, .io = GetParam(), .direct = direct}).value();
  }

  std::string directory_;
  std::string path_;
};

INSTANTIATE_TEST_SUITE_P(Both, FileStoreTest, ::testing::Values(Io::kUringOrPread, Io::kPread),
                         [](const auto& info) { return info.param == Io::kPread ? "Pread" : "Uring"; });

TEST_P(FileStoreTest, SaysWhatItIs) {
  const std::unique_ptr<FileStore> store = Open(path_);
  EXPECT_EQ(store->name(), "file");
  EXPECT_EQ(store->description(), absl::StrCat("the swap file ", path_));
  EXPECT_EQ(store->size(), kSize);
  EXPECT_EQ(store->uses_uring(), GetParam() == Io::kUringOrPread);
}

// One thread's part of the store against a model of it: each page holds what was last written there.
class Part {
 public:
  static constexpr size_t kPages = 64;
  Part(FileStore& store, size_t first)
      : store_(store), first_(first), seeds_(kPages), random_(static_cast<uint32_t>(first + 1)) {}

  absl::Status Run(int steps) {
    for (int i = 0; i < steps; ++i) {
      if (absl::Status status = random_() % 2 == 0 ? Write() : Read(); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  // Ranges of random pages, none of them twice, in random order, at random places in memory.
  std::vector<size_t> SomePages() {
    std::vector<size_t> pages;
    for (size_t page = 0; page < kPages; ++page) {
      if (random_() % 3 != 0) pages.push_back(page);
    }
    std::ranges::shuffle(pages, random_);
    return pages;
  }
  std::vector<Transfer> Transfers(const std::vector<size_t>& pages) {
    std::vector<Transfer> transfers;
    for (size_t i = 0; i < pages.size(); ++i) {
      transfers.push_back({.offset = Offset(first_ + pages[i]), .bytes = memory_.At(i)});
    }
    return transfers;
  }
  absl::Status Write() {
    const std::vector<size_t> pages = SomePages();
    for (size_t i = 0; i < pages.size(); ++i) memory_.Fill(i, seeds_[pages[i]] = random_());
    return store_.Write(Transfers(pages));
  }
  absl::Status Read() {
    const std::vector<size_t> pages = SomePages();
    if (absl::Status status = store_.Read(Transfers(pages), BackingStore::IfAway::kWait); !status.ok()) return status;
    for (size_t i = 0; i < pages.size(); ++i) {
      if (!memory_.Holds(i, seeds_[pages[i]]))
        return absl::InternalError(absl::StrCat("page ", first_ + pages[i], " is wrong"));
    }
    return absl::OkStatus();
  }

  FileStore& store_;
  const size_t first_;
  std::vector<uint64_t> seeds_;  // 0: never written, reads as zero
  std::minstd_rand random_;
  Pages memory_{kPages};
};

TEST_P(FileStoreTest, KeepsWhatSeveralThreadsWrite) {
  constexpr size_t kThreads = 12;  // more than may transfer at once
  for (const bool direct : {true, false}) {
    const std::unique_ptr<FileStore> store = Open(directory_, kSize, direct);
    std::vector<absl::Status> results(kThreads);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] { results[i] = Part(*store, i * Part::kPages).Run(40); });
    }
    for (std::thread& thread : threads) thread.join();
    for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
  }
}

TEST_P(FileStoreTest, AdjacentTransfersAreOneRequest) {
  const std::unique_ptr<FileStore> store = Open(directory_);
  Pages memory(3);
  for (size_t page = 0; page < 3; ++page) memory.Fill(page, page + 1);
  const Transfer transfers[] = {{.offset = Offset(12), .bytes = memory.At(0)},
                                {.offset = Offset(10), .bytes = memory.At(1)},
                                {.offset = Offset(11), .bytes = memory.At(2)}};
  ASSERT_TRUE(store->Write(transfers).ok());
  EXPECT_EQ(store->statistics().requests, 1);
  EXPECT_EQ(store->statistics().written, Offset(3));
  Pages back(3);
  ASSERT_TRUE(ReadOne(*store, 10, back.At(0, 3)).ok());
  EXPECT_TRUE(back.Holds(0, 2));
  EXPECT_TRUE(back.Holds(1, 3));
  EXPECT_TRUE(back.Holds(2, 1));
}

TEST_P(FileStoreTest, TakesMoreRequestsThanMayBeUnderWay) {
  constexpr size_t kRequests = 200;
  const std::unique_ptr<FileStore> store = Open(directory_);
  Pages memory(kRequests);
  std::vector<Transfer> transfers;
  for (size_t i = 0; i < kRequests; ++i) {
    memory.Fill(i, i + 1);
    transfers.push_back({.offset = Offset(2 * i), .bytes = memory.At(i)});
  }
  ASSERT_TRUE(store->Write(transfers).ok());
  EXPECT_EQ(store->statistics().requests, kRequests);
  for (size_t i = 0; i < kRequests; ++i) memory.Fill(i, 0);
  ASSERT_TRUE(store->Read(transfers, BackingStore::IfAway::kWait).ok());
  for (size_t i = 0; i < kRequests; ++i) EXPECT_TRUE(memory.Holds(i, i + 1)) << i;
}

TEST_P(FileStoreTest, TheLastPageCanBeUsedAndNothingIsATransferToo) {
  const std::unique_ptr<FileStore> store = Open(path_);
  Pages memory(1);
  memory.Fill(0, 5);
  const size_t last = kSize.in_bytes() / kPageSize - 1;
  EXPECT_TRUE(WriteOne(*store, last, memory.At(0)).ok());
  EXPECT_TRUE(ReadOne(*store, last, memory.At(0)).ok());
  EXPECT_TRUE(memory.Holds(0, 5));
  EXPECT_TRUE(store->Write({}).ok());
  EXPECT_TRUE(store->Read({}, BackingStore::IfAway::kWait).ok());
}

// A filesystem of 128 KiB, seen by this process alone.
bool MountSmallDisk(const std::string& directory) {
  if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
  return mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount("tmpfs", directory.c_str(), "tmpfs", 0, "size=128k") == 0;
}

TEST_P(FileStoreTest, AFullDiskHasNoRoom) {
  if (!InChild([&] { return MountSmallDisk(directory_); })) GTEST_SKIP() << "nothing can be mounted here";
  EXPECT_TRUE(InChild([&] { return MountSmallDisk(directory_) && FillsUpAndKeepsWhatItHas(*Open(path_)); }));
}

TEST_P(FileStoreTest, TheLimitOnFileSizesIsWantOfRoomToo) {
  EXPECT_TRUE(InChild([&] {
    const std::unique_ptr<FileStore> store = Open(path_);
    // Beyond the middle, from which on it is written too.
    const uint64_t bytes = kSize.in_bytes() / 2 + 25 * kPageSize;
    const rlimit limit = {.rlim_cur = bytes, .rlim_max = bytes};
    std::signal(SIGXFSZ, SIG_IGN);
    return setrlimit(RLIMIT_FSIZE, &limit) == 0 && FillsUpAndKeepsWhatItHas(*store);
  }));
}

TEST_P(FileStoreTest, AFileThatWasCutShortHasLostData) {
  const std::unique_ptr<FileStore> store = Open(path_);
  Pages memory(8);
  ASSERT_TRUE(WriteOne(*store, 0, memory.At(0, 8)).ok());
  // The header, three pages and a part of one.
  ASSERT_EQ(truncate(path_.c_str(), 4 * kPageSize + 100), 0);
  EXPECT_TRUE(store->Read(Apart(0, 2, memory), BackingStore::IfAway::kWait).ok());
  EXPECT_TRUE(absl::IsDataLoss(ReadOne(*store, 0, memory.At(0, 8))));
  EXPECT_TRUE(absl::IsDataLoss(store->Read(Apart(0, 3, memory), BackingStore::IfAway::kWait)));
  const absl::Status status = store->Read(Apart(0, 6, memory), BackingStore::IfAway::kWait);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), path_)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "shorter")) << status;
  EXPECT_EQ(store->statistics().cut_short, 3);
}

// A file that can be made read-only while it is open: sealed.
class Sealable {
 public:
  Sealable() : fd_(memfd_create("swap", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {}
  std::string path() const { return absl::StrCat("/proc/self/fd/", fd_.get()); }
  bool Seal() { return fcntl(fd_.get(), F_ADD_SEALS, F_SEAL_WRITE) == 0; }

 private:
  UniqueFd fd_;
};

TEST_P(FileStoreTest, AWriteThatFailsIsALossAndSaysWhere) {
  Sealable file;
  const std::unique_ptr<FileStore> store = Open(file.path());
  ASSERT_TRUE(file.Seal());
  Pages memory(2);
  const absl::Status status = store->Write(Apart(3, 9, memory));
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "writing 4096 bytes at offset 16384 of the swap file /proc/self/fd/"))
      << status;
  EXPECT_TRUE(absl::StrContains(status.message(), std::strerror(EPERM))) << status;
  EXPECT_EQ(store->statistics().failures, 1);
}

TEST_P(FileStoreTest, DiscardGivesRoomBack) {
  const std::unique_ptr<FileStore> store = Open(path_);
  const auto blocks = [&]() -> blkcnt_t {
    struct stat st;
    return stat(path_.c_str(), &st) == 0 ? st.st_blocks * 512 : -1;
  };
  Pages memory(256);
  for (size_t page = 0; page < 256; ++page) memory.Fill(page, page + 1);
  ASSERT_TRUE(WriteOne(*store, 0, memory.At(0, 256)).ok());
  const blkcnt_t before = blocks();
  store->Discard(Offset(1), Offset(254));
  if (store->statistics().discards_refused > 0) GTEST_SKIP() << "this filesystem has no holes";
  EXPECT_EQ(store->statistics().discarded, Offset(254));
  EXPECT_LE(blocks(), before - static_cast<blkcnt_t>(Offset(200).in_bytes()));
  ASSERT_TRUE(ReadOne(*store, 0, memory.At(0, 256)).ok());
  EXPECT_TRUE(memory.Holds(0, 1));
  EXPECT_TRUE(memory.Holds(1, 0));
  EXPECT_TRUE(memory.Holds(254, 0));
  EXPECT_TRUE(memory.Holds(255, 256));
}

TEST_P(FileStoreTest, DiscardIsNotTriedAgainWhereThereIsNone) {
  Sealable file;
  const std::unique_ptr<FileStore> store = Open(file.path());
  ASSERT_TRUE(file.Seal());
  store->Discard(Offset(0), Offset(1));
  store->Discard(Offset(1), Offset(1));
  EXPECT_EQ(store->statistics().discards_refused, 1);
  EXPECT_EQ(store->statistics().discarded, ByteCount());
}

// Has io_uring_setup fail in this process, as container runtimes do.
bool ForbidUring() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = static_cast<unsigned short>(std::size(filter)), .filter = filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST(FileStoreFallbackTest, WorksWhereUringIsForbidden) {
  EXPECT_TRUE(InChild([] {
    if (!ForbidUring()) return false;
    const absl::StatusOr<std::unique_ptr<FileStore>> store =
        FileStore::Open({.path = ::testing::TempDir(), .size = kSize});
    if (!store.ok() || (*store)->uses_uring()) return false;
    if (!absl::StrContains((*store)->why_no_uring(), std::strerror(EPERM))) return false;
    Pages memory(2);
    memory.Fill(0, 7);
    if (!(*store)->Write(Apart(1, 3, memory)).ok()) return false;
    memory.Fill(0, 0);
    return (*store)->Read(Apart(1, 3, memory), BackingStore::IfAway::kWait).ok() && memory.Holds(0, 7) &&
           memory.Holds(1, 0);
  }));
}

TEST(FileStoreFallbackTest, SaysWhyThereIsNoStore) {
  const absl::StatusOr<std::unique_ptr<FileStore>> store = FileStore::Open({.path = "/dev/null", .size = kSize});
  EXPECT_EQ(store.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quire
