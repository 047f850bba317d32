#include "vmm/baseline/journal_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/baseline/fake_tree.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class JournalFileTest : public testing::Test {
 protected:
  // What another process finds there.
  std::vector<std::string> LinesNow() const {
    return JournalFile::Read(UniqueFd(open(path_.c_str(), O_RDWR | O_CLOEXEC)), path_).lines();
  }
  bool IsLocked() const {
    const UniqueFd other(open(path_.c_str(), O_RDWR | O_CLOEXEC));
    return !Lock(other.get(), LOCK_EX | LOCK_NB);
  }

  const FakeTree tree_;
  const std::string path_ = tree_.Path("/journal");
};

TEST_F(JournalFileTest, HoldsWhatWasAddedAndKept) {
  absl::StatusOr<JournalFile> journal = JournalFile::Create(path_);
  ASSERT_TRUE(journal.ok()) << journal.status();
  for (const char* line : {"one", "two", "three"}) ASSERT_TRUE(journal->Add(line).ok());
  EXPECT_THAT(LinesNow(), ElementsAre("one", "two", "three"));
  ASSERT_TRUE(journal->Keep(1).ok());
  EXPECT_THAT(LinesNow(), ElementsAre("one"));
  ASSERT_TRUE(journal->Add("four").ok());
  EXPECT_THAT(journal->lines(), ElementsAre("one", "four"));
  EXPECT_THAT(LinesNow(), ElementsAre("one", "four"));
  EXPECT_EQ(journal->process(), getpid());
}

TEST_F(JournalFileTest, StaysLockedAndItsOwnWhenItIsRewritten) {
  absl::StatusOr<JournalFile> journal = JournalFile::Create(path_);
  for (const char* line : {"one", "two", "three"}) ASSERT_TRUE(journal->Add(line).ok());
  ASSERT_TRUE(journal->Rewrite({"two"}).ok());
  EXPECT_TRUE(IsLocked());
  EXPECT_THAT(LinesNow(), ElementsAre("two"));
  ASSERT_TRUE(journal->Add("four").ok());
  EXPECT_THAT(LinesNow(), ElementsAre("two", "four"));
  EXPECT_EQ(journal->path(), path_);
  journal->Remove();
  EXPECT_FALSE(tree_.Has("/journal"));
  EXPECT_FALSE(tree_.Has("/journal.new"));
}

TEST_F(JournalFileTest, IsRewrittenOverWhatAKilledProcessLeftBeside) {
  tree_.Put("/journal.new", "half of");
  absl::StatusOr<JournalFile> journal = JournalFile::Create(path_);
  ASSERT_TRUE(journal->Rewrite({"two"}).ok());
  EXPECT_THAT(LinesNow(), ElementsAre("two"));
}

TEST_F(JournalFileTest, IsLeftBehindByAProcessThatHasEnded) {
  {
    absl::StatusOr<JournalFile> journal = JournalFile::Create(path_);
    ASSERT_TRUE(journal->Add("one").ok());
    const absl::Status in_use = OpenLeftBehind(path_, "somebody is at work").status();
    EXPECT_TRUE(absl::IsFailedPrecondition(in_use));
    EXPECT_THAT(std::string(in_use.message()), HasSubstr("somebody is at work"));
  }
  absl::StatusOr<UniqueFd> fd = OpenLeftBehind(path_, "");
  ASSERT_TRUE(fd.ok()) << fd.status();
  ASSERT_TRUE(fd->valid());
  EXPECT_THAT(JournalFile::Read(*std::move(fd), path_).lines(), ElementsAre("one"));
}

TEST_F(JournalFileTest, IsNotThereWhereNobodyLeftOne) { EXPECT_FALSE(OpenLeftBehind(path_, "")->valid()); }

TEST_F(JournalFileTest, IsNotReadWhereOthersCanWriteToIt) {
  tree_.Put("/journal", "{}");
  chmod(path_.c_str(), 0666);
  EXPECT_TRUE(absl::IsPermissionDenied(OpenLeftBehind(path_, "").status()));
}

TEST_F(JournalFileTest, LeavesOutALineThatIsNotComplete) {
  std::ofstream(path_) << "{}\none\ntw";
  EXPECT_THAT(LinesNow(), ElementsAre("one"));
}

TEST_F(JournalFileTest, LocksADirectoryThatIsItsOwn) {
  EXPECT_TRUE(LockJournals(tree_.Path("/run/quire"))->valid());
  chmod(tree_.Path("/run/quire").c_str(), 0777);
  EXPECT_TRUE(absl::IsFailedPrecondition(LockJournals(tree_.Path("/run/quire")).status()));
}

}  // namespace
}  // namespace quire
