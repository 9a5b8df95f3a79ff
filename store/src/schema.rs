//! From the corpus's columns to the output's: which column is embedded, which are carried, and what is added.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use gristmill_job::{JobSpec, VectorSpec, VectorType};

/// The vector.
pub const EMBEDDING: &str = "embedding";
/// URL of the object that the row comes from.
pub const OBJECT: &str = "_object";
/// Version of that object.
pub const VERSION: &str = "_version";
/// Number of the row in that object, from zero.
pub const ROW: &str = "_row";
/// Token ids used, the prompt's among them.
pub const TOKENS: &str = "_tokens";
/// Bytes of the text that were not used.
pub const CUT_BYTES: &str = "_cut_bytes";
/// The first 128 bits of the BLAKE3 digest of the text, before the prompt.
pub const TEXT_HASH: &str = "_text_hash";

/// Name of the vector's components in Parquet, as the format's specification has it.
pub const COMPONENT: &str = "element";

/// Columns that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// No column of that name.
    #[error("{object} has no column `{column}`; it has: {known}")]
    NoColumn {
        /// Where.
        object: String,
        /// What was asked for.
        column: String,
        /// What there is.
        known: String,
    },
    /// The text column is not text.
    #[error("{object}: column `{column}` is {found}, not text; its text columns are: {known}")]
    NotText {
        /// Where.
        object: String,
        /// What was asked for.
        column: String,
        /// Its type.
        found: String,
        /// What there is.
        known: String,
    },
    /// None, or too many, columns could be the text.
    #[error("{object}: name the text column with --text-column; its text columns are: {known}")]
    WhichText {
        /// Where.
        object: String,
        /// The candidates.
        known: String,
    },
    /// A carried column has a name that the output needs.
    #[error("column `{column}` of the corpus has a name that the output gives to its own; leave it out with --columns")]
    Clash {
        /// Which.
        column: String,
    },
    /// A column is asked for twice.
    #[error("column `{column}` is named twice in --columns")]
    Twice {
        /// Which.
        column: String,
    },
    /// Two objects differ in a column.
    #[error(
        "column `{column}` is {found} in {object} and {expected} in {other}; embed them as two jobs, or leave it out with --columns"
    )]
    Differs {
        /// Which.
        column: String,
        /// One object.
        object: String,
        /// Its type there.
        found: String,
        /// Another object.
        other: String,
        /// Its type there.
        expected: String,
    },
}

/// Whether values of the type are text: UTF-8 of any layout, or a dictionary of it.
pub fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// The texts of a column for which [`is_text`] holds; a null is `None`.
pub fn texts(column: &ArrayRef) -> Vec<Option<&str>> {
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().iter().collect(),
        DataType::LargeUtf8 => column.as_string::<i64>().iter().collect(),
        DataType::Utf8View => column.as_string_view().iter().collect(),
        DataType::Dictionary(..) => {
            let dictionary = column.as_any_dictionary();
            if dictionary.values().is_empty() {
                return vec![None; column.len()];
            }
            let values = texts(dictionary.values());
            let keys = dictionary.normalized_keys();
            let valid = |row: usize| !dictionary.keys().is_null(row);
            keys.iter().enumerate().map(|(row, &key)| if valid(row) { values[key] } else { None }).collect()
        }
        other => unreachable!("{other} is no text column: the plan refuses it"),
    }
}

/// The text column: the one asked for, else `content`, else `text`, else the only text column.
pub fn choose_text(object: &str, schema: &Schema, asked: Option<&str>) -> Result<String, SchemaError> {
    let texts: Vec<&str> =
        schema.fields().iter().filter(|f| is_text(f.data_type())).map(|f| f.name().as_str()).collect();
    let known = if texts.is_empty() { "none".to_owned() } else { texts.join(", ") };
    let object = object.to_owned();
    if let Some(column) = asked {
        let Ok(field) = schema.field_with_name(column) else {
            return Err(SchemaError::NoColumn { object, column: column.to_owned(), known: names(schema) });
        };
        if !is_text(field.data_type()) {
            let found = field.data_type().to_string();
            return Err(SchemaError::NotText { object, column: column.to_owned(), found, known });
        }
        return Ok(column.to_owned());
    }
    let usual = ["content", "text"].into_iter().find(|name| texts.contains(name));
    match (usual, texts.as_slice()) {
        (Some(name), _) => Ok(name.to_owned()),
        (None, [name]) => Ok((*name).to_owned()),
        _ => Err(SchemaError::WhichText { object, known }),
    }
}

/// The carried columns: those asked for, in that order, else all but the text column.
pub fn choose_carried(
    object: &str,
    schema: &Schema,
    text: &str,
    asked: Option<&[String]>,
) -> Result<Vec<Field>, SchemaError> {
    let fields: Vec<Field> = match asked {
        None => schema.fields().iter().filter(|f| f.name() != text).map(|f| (**f).clone()).collect(),
        Some(columns) => columns
            .iter()
            .map(|column| {
                schema.field_with_name(column).cloned().map_err(|_| SchemaError::NoColumn {
                    object: object.to_owned(),
                    column: column.clone(),
                    known: names(schema),
                })
            })
            .collect::<Result<_, _>>()?,
    };
    if let Some(twice) = (1..fields.len()).find(|&i| fields[..i].iter().any(|f| f.name() == fields[i].name())) {
        return Err(SchemaError::Twice { column: fields[twice].name().clone() });
    }
    let ours = [EMBEDDING, OBJECT, VERSION, ROW, TOKENS, CUT_BYTES, TEXT_HASH];
    if let Some(field) = fields.iter().find(|f| ours.contains(&f.name().as_str())) {
        return Err(SchemaError::Clash { column: field.name().clone() });
    }
    Ok(fields)
}

/// Checks that another object of the corpus has the same text and carried columns as the first.
pub fn same_columns(first: (&str, &Schema), other: (&str, &Schema), columns: &[String]) -> Result<(), SchemaError> {
    for column in columns {
        let field = |(object, schema): (&str, &Schema)| {
            schema.field_with_name(column).cloned().map_err(|_| SchemaError::NoColumn {
                object: object.to_owned(),
                column: column.clone(),
                known: names(schema),
            })
        };
        let (expected, found) = (field(first)?, field(other)?);
        if expected.data_type() != found.data_type() {
            return Err(SchemaError::Differs {
                column: column.clone(),
                object: other.0.to_owned(),
                found: found.data_type().to_string(),
                other: first.0.to_owned(),
                expected: expected.data_type().to_string(),
            });
        }
    }
    Ok(())
}

fn names(schema: &Schema) -> String {
    schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")
}

/// The output's columns: the carried ones, the vector, and where it comes from. A carried column may hold nulls in any
/// object, so all may.
pub fn output(carried: &[Field], vectors: &VectorSpec) -> SchemaRef {
    let component = match vectors.dtype {
        VectorType::F32 => DataType::Float32,
        VectorType::F16 => DataType::Float16,
    };
    let component = Arc::new(Field::new(COMPONENT, component, false));
    let own = [
        Field::new(EMBEDDING, DataType::FixedSizeList(component, vectors.width as i32), false),
        Field::new(OBJECT, DataType::Utf8, false),
        Field::new(VERSION, DataType::Utf8, false),
        Field::new(ROW, DataType::Int64, false),
        Field::new(TOKENS, DataType::Int32, false),
        Field::new(CUT_BYTES, DataType::Int64, false),
        Field::new(TEXT_HASH, DataType::FixedSizeBinary(16), false),
    ];
    let carried = carried.iter().map(|field| field.clone().with_nullable(true));
    Arc::new(Schema::new(carried.chain(own).collect::<Vec<_>>()))
}

/// A schema as job.json records it: name and type of every column.
pub fn describe(schema: &Schema) -> Vec<(String, String)> {
    schema.fields().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect()
}

/// The output's columns of a job, from the columns of one of its objects.
pub fn of_job(spec: &JobSpec, object: &str, schema: &Schema) -> Result<SchemaRef, SchemaError> {
    let selection = &spec.selection;
    let carried = choose_carried(object, schema, &selection.text_column, Some(&selection.columns))?;
    let found = output(&carried, &spec.vectors);
    match describe(&found).iter().zip(&spec.schema).find(|(found, expected)| found != expected) {
        Some((found, expected)) => Err(SchemaError::Differs {
            column: expected.0.clone(),
            object: object.to_owned(),
            found: found.1.clone(),
            other: "job.json".to_owned(),
            expected: expected.1.clone(),
        }),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: &[(&str, DataType)]) -> Schema {
        Schema::new(fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>())
    }

    #[test]
    fn the_text_column_is_found_or_asked_for() {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let s = schema(&[("a", DataType::Utf8), ("text", DataType::LargeUtf8), ("content", dictionary)]);
        assert_eq!(choose_text("o", &s, None), Ok("content".into()));
        assert_eq!(choose_text("o", &s, Some("a")), Ok("a".into()));
        let s = schema(&[("n", DataType::Int64), ("code", DataType::Utf8View)]);
        assert_eq!(choose_text("o", &s, None), Ok("code".into()));
        assert!(matches!(choose_text("o", &s, Some("n")), Err(SchemaError::NotText { .. })));
        assert!(matches!(choose_text("o", &s, Some("m")), Err(SchemaError::NoColumn { .. })));
        let s = schema(&[("a", DataType::Utf8), ("b", DataType::Utf8)]);
        let error = choose_text("o", &s, None).expect_err("two candidates");
        assert!(error.to_string().ends_with("its text columns are: a, b"), "{error}");
        let s = schema(&[("n", DataType::Binary)]);
        assert!(matches!(choose_text("o", &s, None), Err(SchemaError::WhichText { .. })));
    }

    #[test]
    fn a_name_of_ours_is_a_clash_unless_left_out() {
        let s = schema(&[("content", DataType::Utf8), ("_row", DataType::Int64)]);
        assert_eq!(choose_carried("o", &s, "content", None), Err(SchemaError::Clash { column: "_row".into() }));
        assert_eq!(choose_carried("o", &s, "content", Some(&[])), Ok(vec![]));
        let twice = ["content".to_owned(), "content".to_owned()];
        let error = Err(SchemaError::Twice { column: "content".into() });
        assert_eq!(choose_carried("o", &s, "content", Some(&twice)), error);
    }
}
