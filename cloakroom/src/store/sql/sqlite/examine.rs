//! What `doctor` looks at.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::{SqliteStore, fault::Fault, open};
use crate::{
    error::{Error, Result},
    store::{Finding, place},
};

impl SqliteStore {
    /// Looks at the file, its schema and its pages. What slots should be is looked at for every store alike.
    pub(super) async fn examine_file(&self, repair: bool) -> Result<Vec<Finding>> {
        let mut findings = place::examine(&self.file, "does not lock files as SQLite needs it");
        findings.push(self.read(version).await?);
        findings.push(self.read(journal).await?);
        findings.extend(self.examine_schema(repair).await?);
        findings.extend(self.examine_pages(repair).await?);
        Ok(findings)
    }

    /// Compares tables and indexes with those of a new database.
    async fn examine_schema(&self, repair: bool) -> Result<Vec<Finding>> {
        let wrong = self.read(|db| Ok(Schema::of(db)?.differences(&expected()?))).await?;
        let mut findings = Vec::new();
        for Difference { mut finding, mend } in wrong {
            if let Some(mend) = mend.filter(|_| repair) {
                match self.write(move |db| Ok(db.execute_batch(&mend)?)).await {
                    Ok(()) => finding = finding.repaired(true),
                    Err(Error::Store { source: Some(source), .. }) => {
                        finding.text = format!("{} That failed: {source}.", finding.text);
                    }
                    Err(error) => return Err(error),
                }
            }
            findings.push(finding);
        }
        if findings.is_empty() {
            findings
                .push(Finding::fine("schema", format!("Its version is {}, and all is as it was made.", open::LATEST)));
        }
        Ok(findings)
    }

    /// Lets SQLite compare all indexes with their tables.
    async fn examine_pages(&self, repair: bool) -> Result<Vec<Finding>> {
        let mut problems = self.read(integrity).await?;
        let were = problems.len();
        if were > 0 && repair {
            // What is wrong with an index is mended by this; what is wrong with a table is not.
            self.write(|db| Ok(db.execute_batch("REINDEX")?)).await?;
            problems = self.read(integrity).await?;
        }
        Ok(vec![match problems.first() {
            None if were == 0 => Finding::fine("integrity", "SQLite finds the file whole."),
            None => {
                let text = format!("SQLite found {were} things wrong with the indexes. They were made anew. Repaired.");
                Finding::error("integrity", text).repaired(true)
            }
            Some(problem) => {
                let what = format!("SQLite finds {} things wrong, such as: {problem}.", problems.len());
                let remedy = if repair {
                    "Restore a backup, or save what can be read with the command sqlite3 FILE .recover."
                } else {
                    "Use --repair, which makes the indexes anew; if a table is damaged, restore a backup."
                };
                Finding::error("integrity", format!("{what} {remedy}"))
            }
        }])
    }
}

fn version(db: &Connection) -> Result<Finding, Fault> {
    let version: String = db.query_row("SELECT sqlite_version()", [], |row| row.get(0))?;
    Ok(Finding::fine("version", format!("SQLite {version} is part of this program.")))
}

fn journal(db: &Connection) -> Result<Finding, Fault> {
    let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    Ok(if mode == "wal" {
        Finding::fine("durability", "Each commit is on the disk before it is answered (WAL, synchronous=FULL).")
    } else {
        let text = format!("The journal mode is {mode} and not wal: another program set it. Open the store anew.");
        Finding::error("durability", text)
    })
}

/// At most a hundred things that are wrong.
fn integrity(db: &Connection) -> Result<Vec<String>, Fault> {
    let mut check = db.prepare("PRAGMA integrity_check")?;
    let rows = check.query_map([], |row| row.get::<_, String>(0))?;
    let mut problems = rows.collect::<Result<Vec<_>, _>>()?;
    problems.retain(|problem| problem != "ok");
    Ok(problems)
}

/// Tables with their columns, and indexes as they were asked for.
struct Schema {
    tables: BTreeMap<String, BTreeSet<String>>,
    /// By name: the table, and the statement that makes it.
    indexes: BTreeMap<String, (String, String)>,
}

struct Difference {
    finding: Finding,
    mend: Option<String>,
}

/// The schema that the migrations make.
fn expected() -> Result<Schema, Fault> {
    let db = Connection::open_in_memory()?;
    open::MIGRATIONS.iter().try_for_each(|migration| db.execute_batch(migration))?;
    Schema::of(&db)
}

impl Schema {
    fn of(db: &Connection) -> Result<Self, Fault> {
        const COLUMNS: &str = "SELECT m.name, c.name || ' ' || c.type || CASE WHEN c.\"notnull\" THEN ' NOT NULL' ELSE '' END \
            FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%'";
        let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut columns = db.prepare(COLUMNS)?;
        let mut rows = columns.query([])?;
        while let Some(row) = rows.next()? {
            tables.entry(row.get(0)?).or_default().insert(row.get(1)?);
        }
        let mut indexes =
            db.prepare("SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL")?;
        let indexes =
            indexes.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?.collect::<Result<_, _>>()?;
        Ok(Self { tables, indexes })
    }

    fn differences(&self, expected: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut differ =
            |text: String, mend| differences.push(Difference { finding: Finding::error("schema", text), mend });
        for (table, columns) in &expected.tables {
            let Some(found) = self.tables.get(table) else {
                differ(format!("The table {table} is gone: restore a backup."), None);
                continue;
            };
            for column in columns.difference(found) {
                differ(format!("The table {table} has no column \"{column}\": restore a backup."), None);
            }
        }
        let there = |table: &String| self.tables.contains_key(table);
        for (index, (_, made_by)) in expected.indexes.iter().filter(|(_, (table, _))| there(table)) {
            match self.indexes.get(index) {
                Some((_, found)) if found == made_by => {}
                Some(_) => {
                    let text =
                        format!("The index {index} is another one than it was made: use --repair to make it anew.");
                    differ(text, Some(format!("DROP INDEX {index}; {made_by}")));
                }
                None => {
                    let text = format!(
                        "The index {index} is gone, and calls are slow without it: use --repair to make it anew."
                    );
                    differ(text, Some(made_by.clone()));
                }
            }
        }
        differences
    }
}
