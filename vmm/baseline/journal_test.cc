#include "vmm/baseline/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/baseline/fake_tree.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Kind = Undo::Kind;

constexpr SwapCalls kNoSwap = {.on = [](const char*, int) { return 0; }, .off = [](const char*) { return 0; }};

class JournalTest : public ::testing::Test {
 protected:
  Journal Make() const { return Journal::Create(path_).value(); }
  Journal Reread() {
    said_.str("");
    return Journal::Read(UniqueFd(open(path_.c_str(), O_RDWR | O_CLOEXEC)), path_, said_).value();
  }
  std::string Text() const {
    std::ifstream file(path_);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }
  Undo Write(const std::string& name, const std::string& value) const {
    return {.kind = Kind::kWrite, .target = host_.Path("/" + name), .value = value};
  }

  FakeTree host_;
  const std::string path_ = host_.Path("/journal");
  std::ostringstream said_;
};

TEST_F(JournalTest, HoldsAtAnyMomentWhatIsToBeUndone) {
  Journal journal = Make();
  EXPECT_THAT(Reread().records(), IsEmpty());
  const Undo a = Write("a", "1"), b = Write("b", "2"), c = Write("c", "3");
  ASSERT_EQ(journal.Add(a), absl::OkStatus());
  ASSERT_EQ(journal.Add(b), absl::OkStatus());
  EXPECT_THAT(Reread().records(), ElementsAre(a, b));
  ASSERT_EQ(journal.DropLast(), absl::OkStatus());
  EXPECT_THAT(Reread().records(), ElementsAre(a));
  ASSERT_EQ(journal.Add(c), absl::OkStatus());
  EXPECT_THAT(Reread().records(), ElementsAre(a, c));
  EXPECT_EQ(Reread().process(), getpid());
  EXPECT_FALSE(Reread().outdated());
  journal.Remove();
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(JournalTest, IsForThisUserAloneAndLocked) {
  Journal journal = Make();
  struct stat found;
  ASSERT_EQ(stat(path_.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600u);
  const UniqueFd other(open(path_.c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(Lock(other.get(), LOCK_EX | LOCK_NB));
  EXPECT_TRUE(IsOwnerAlive(other.get()));
  journal.Remove();
  EXPECT_TRUE(Lock(other.get(), LOCK_EX | LOCK_NB));
}

TEST_F(JournalTest, ThereIsOneOfAName) {
  const Journal journal = Make();
  EXPECT_EQ(Journal::Create(path_).status().code(), absl::StatusCode::kAlreadyExists);
}

// Whoever wrote it was killed in the middle.
TEST_F(JournalTest, ALineThatIsTornIsLeftOut) {
  Journal journal = Make();
  const size_t empty = Text().size();
  const Undo a = Write("a", "1"), b = Write("b", "2");
  ASSERT_EQ(journal.Add(a), absl::OkStatus());
  const size_t one = Text().size();
  ASSERT_EQ(journal.Add(b), absl::OkStatus());
  for (size_t length = Text().size(); length > 0; --length) {
    ASSERT_EQ(truncate(path_.c_str(), static_cast<off_t>(length - 1)), 0);
    const size_t complete = length - 1 >= one ? 1 : 0;
    EXPECT_EQ(Reread().records().size(), complete) << length - 1 << " of " << empty << ", " << one;
    EXPECT_EQ(said_.str(), "");
  }
}

TEST_F(JournalTest, ALineThatSaysNothingDoesNotStopTheOthers) {
  const Undo a = Write("a", "1"), b = Write("b", "2");
  { ASSERT_EQ(Make().Add(a), absl::OkStatus()); }
  std::ofstream(path_, std::ios::app) << "nonsense\n" << ToLine(b);
  EXPECT_THAT(Reread().records(), ElementsAre(a, b));
  EXPECT_THAT(said_.str(), HasSubstr("a line of"));
}

TEST_F(JournalTest, IsOutdatedWhenTheHostWasStartedAnew) {
  std::ofstream(path_) << "{\"boot\":\"another\",\"process\":1,\"started\":1}\n";
  EXPECT_TRUE(Reread().outdated());
}

// The number of a process that has ended is given to another one after a while.
TEST_F(JournalTest, ItsOwnerIsNotAnotherProcessOfTheSameNumber) {
  std::ofstream(path_) << "{\"boot\":\"\",\"process\":" << getpid() << ",\"started\":1}\n";
  const UniqueFd fd(open(path_.c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(IsOwnerAlive(fd.get()));
}

TEST_F(JournalTest, IsPlayedBackLastThingFirstAndOnlyAsFarAsAsked) {
  for (const char* name : {"/a", "/b"}) host_.Put(name, "changed");
  Journal journal = Make();
  for (const Undo& undo : {Write("a", "oldest"), Write("a", "old"), Write("b", "older"), Write("b", "newer")}) {
    ASSERT_EQ(journal.Add(undo), absl::OkStatus());
  }
  PlayBack(journal, 2, kNoSwap, said_);
  EXPECT_EQ(host_.Get("/b"), "older");
  EXPECT_EQ(host_.Get("/a"), "changed");
  EXPECT_EQ(Reread().records().size(), 2u);
  PlayBack(journal, 0, kNoSwap, said_);
  EXPECT_EQ(host_.Get("/a"), "oldest");
  EXPECT_THAT(Reread().records(), IsEmpty());
  EXPECT_EQ(said_.str(), "");
}

TEST_F(JournalTest, WhatFailsIsSaidAndDoesNotStopTheOthers) {
  for (const char* name : {"/a", "/b"}) host_.Put(name, "changed");
  host_.MakeFolder("/folder");
  Journal journal = Make();
  for (const Undo& undo : {Write("a", "1"), Write("folder", "2"), Write("b", "3")}) {
    ASSERT_EQ(journal.Add(undo), absl::OkStatus());
  }
  PlayBack(journal, 0, kNoSwap, said_);
  EXPECT_EQ(host_.Get("/a"), "1");
  EXPECT_EQ(host_.Get("/b"), "3");
  EXPECT_THAT(said_.str(), HasSubstr("could not be undone"));
  EXPECT_THAT(said_.str(), HasSubstr(host_.Path("/folder is 2")));
}

// Once its number is known, that is the one that goes, whatever else is new by then.
TEST_F(JournalTest, ADeviceIsRemovedOnce) {
  host_.Put("/sys/class/zram-control/hot_remove", "");
  host_.Put("/sys/block/zram1/diskseq", "17");
  host_.Put("/sys/block/zram2/disksize", "0");
  Journal journal = Make();
  const std::string sysfs = host_.Path("/sys");
  ASSERT_EQ(journal.Add({.kind = Kind::kRemoveNewZrams, .target = sysfs, .value = "zram0"}), absl::OkStatus());
  ASSERT_EQ(journal.Add({.kind = Kind::kRemoveZram, .target = sysfs + "/block/zram1", .value = "17"}),
            absl::OkStatus());
  PlayBack(journal, 0, kNoSwap, said_);
  EXPECT_EQ(host_.Get("/sys/class/zram-control/hot_remove"), "1");
  EXPECT_THAT(journal.records(), IsEmpty());
}

}  // namespace
}  // namespace quire
